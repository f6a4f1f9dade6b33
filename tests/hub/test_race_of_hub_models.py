"""Hub models in a race: downloaded ones are compared, and gated and missing ones are rows. In one subprocess."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.runs.files import read_json
from tests.fakes.hub import FakeHub


def test_gated_and_missing_models_do_not_stop_the_others(tiny_vit: Path, photos: Path, tmp_path: Path) -> None:
    with FakeHub() as hub:
        for owner in ("tester", "strict"):
            for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
                hub.put("model", f"{owner}/tiny-vit", name, (tiny_vit / name).read_bytes())
        hub.fail("GET", "strict/tiny-vit", status=403, times=99, code="GatedRepo")
        hub.fail("HEAD", "strict/tiny-vit", status=403, times=99, code="GatedRepo")
        words = ["--backbones", "tester/tiny-vit", "strict/tiny-vit", "tester/none", "--finalists=0"]
        words += [f"--dataset_name={photos}", "--dataloader_num_workers=0", f"--output_dir={tmp_path / 'race'}"]
        process = subprocess.run(
            [sys.executable, "-m", "pipeline", "race", *words],
            env=os.environ | hub.env(tmp_path / "hf") | {"OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert process.returncode == 2, process.stderr
    rows = read_json(tmp_path / "race" / "race.json")["rows"]
    failed = {row["backbone"]: row["error"] for row in rows if row["error"]}
    assert "is gated: accept its terms on the Hub and run `hf auth login`" in failed["strict/tiny-vit"]
    assert "not found on the Hub" in failed["tester/none"]
    assert [row["backbone"] for row in rows if not row["error"]] == ["tester/tiny-vit"] * 2
    assert (tmp_path / "race" / "tester--tiny-vit" / "model" / "model.safetensors").is_file()
