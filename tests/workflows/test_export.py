"""`export`: files that give the predictions of the run, or are refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from pipeline import Run, export, load
from pipeline.errors import PipelineError

Execute = Callable[..., tuple[int, str, str]]

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    parity = export(finished_run, output=folder, precision=["fp32", "int8"], max_accuracy_drop=6.0)
    assert parity == json.loads((folder / "parity.json").read_text())
    return folder


def test_the_files_are_compared_with_the_run_on_all_of_validation(exported: Path, finished_run: Path) -> None:
    names = {"model-fp32.onnx", "model-int8.onnx", "predict.py", "parity.json"}
    assert {path.name for path in exported.iterdir()} == names
    parity = json.loads((exported / "parity.json").read_text())
    run = Run(finished_run)
    assert parity["images"] == (run.predictions["split"] == "validation").sum()
    assert parity["network"]["accuracy"] == run.metrics["eval_accuracy"]
    assert parity["calibration_images"] == 36
    fp32 = parity["files"]["fp32"]
    for size in ("batch_1", "batch_32"):
        assert fp32[size]["same"] == 1.0
        assert fp32[size]["logit_difference"] < 1e-4
        assert parity["files"]["int8"][size]["drop"] <= 6.0
        assert all(entry["images_per_second"][size] > 0 for entry in (parity["network"], fp32))
    assert parity["files"]["int8"]["bytes"] < fp32["bytes"]


def test_the_program_needs_none_of_our_packages_and_gives_the_predictions_of_the_run(
    exported: Path, finished_run: Path, photos: Path, tmp_path: Path
) -> None:
    images = sorted((photos / "test").rglob("*.png"))
    script = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pipeline'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    words = [exported / "predict.py", exported / "model-fp32.onnx", *images, tmp_path / "none.jpg", "--top_k=2"]
    call = f"import sys; sys.argv = {[str(word) for word in words]!r}\n{script}"
    done = subprocess.run([sys.executable, "-I", "-c", call], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (problem,) = done.stderr.splitlines()
    assert "none.jpg" in problem
    (tmp_path / "out.csv").write_text(done.stdout)
    found, expected = pd.read_csv(tmp_path / "out.csv"), load(finished_run).predict(images, top_k=2)
    assert found["label"].tolist() == expected["label"].tolist()
    column = "calibrated_probability" if "calibrated_probability" in expected else "probability"
    assert np.allclose(found["probability"], expected[column], atol=1e-5)


def test_a_file_that_is_less_accurate_is_refused_and_the_others_are_kept(
    finished_run: Path, tmp_path: Path, vit_pipeline: Execute
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    weights = load_file(run / "model.safetensors")
    weights["classifier.weight"] *= 1e9  # beyond the range of fp16
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    code, _, err = vit_pipeline("export", f"--model={run}", "--precision", "fp32", "fp16")
    assert code == 2
    assert "fp16: logits that are not numbers" in err
    assert "raise --max_accuracy_drop" in err
    assert {path.name for path in (run / "onnx").iterdir()} == {"model-fp32.onnx", "predict.py", "parity.json"}
    assert not [path for path in run.iterdir() if path.name.startswith(".export-")]
    code, _, err = vit_pipeline("export", f"--model={run}")
    assert code == 2
    assert "onnx holds other files: choose a new folder" in err


def test_a_run_whose_data_are_gone_names_the_flag(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"dataset_name": str(tmp_path / "moved")}))
    with pytest.raises(PipelineError, match="moved, which does not exist: add --dataset_name DATA"):
        export(run, output=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    finished_run: Path, vit_pipeline: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, err = vit_pipeline("export", f"--model={finished_run}")
    assert code == 2
    assert "export needs onnxscript: run `pip install onnx onnxscript onnxruntime`" in err
