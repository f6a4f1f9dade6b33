import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from transformers import pipeline

Run = Callable[..., tuple[int, str, str]]


def test_files_folders_and_globs_make_one_table(finished_run: Path, photos: Path, vit_pipeline: Run) -> None:
    red = photos / "test" / "red"
    code, out, _ = vit_pipeline(
        "predict", f"--model={finished_run}", red / "000.png", red / "00[12].png", photos / "test" / "blue", "--top_k=2"
    )
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == (1 + 2 + 6) * 3
    assert lines[0] == str(red / "000.png")
    assert lines[1].split()[0] == "red"
    assert 50 < float(lines[1].split()[1].rstrip("%")) <= 100


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_table_goes_to_a_file_and_agrees_with_transformers(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"labels.{ending}"
    code, out, _ = vit_pipeline("predict", f"--model={finished_run}", photos / "test" / "green", f"--output={file}")
    assert code == 0
    assert "6 images, 18 rows" in out
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}
    table = read[ending](file) if ending in read else pd.DataFrame(map(json.loads, file.read_text().splitlines()))
    assert list(table.columns) == ["image", "rank", "label", "probability"]
    classify = pipeline("image-classification", model=str(finished_run))
    first = table[table["image"] == table["image"][0]]
    expected = classify(first["image"].iloc[0], top_k=3)
    assert list(first["label"]) == [answer["label"] for answer in expected]
    assert list(first["probability"]) == pytest.approx([answer["score"] for answer in expected], abs=1e-5)


def test_a_bad_image_is_skipped_on_request(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    good = photos / "test" / "red" / "000.png"
    code, out, _ = vit_pipeline("predict", f"--model={finished_run}", tmp_path / "bad.jpg", good, "--bad_images=skip")
    assert code == 0
    assert "bad.jpg" in caplog.text
    assert out.splitlines()[0] == str(good)
