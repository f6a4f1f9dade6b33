"""The Python API: lazy, typed, and the same as the command line."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline import ImageClassifier, Run, evaluate, load, load_splits, predict, train
from pipeline.errors import PipelineError
from pipeline.runs.files import read_json
from pipeline.runs.folder import RECORD, RESULTS


@pytest.fixture(scope="module")
def settings(tiny_vit: Path, photos: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": tiny_vit,
        "dataset_name": photos,
        "num_train_epochs": 1,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 6,
        "precision": "fp32",
        "dataloader_num_workers": 0,
        "refit_head": True,
    }


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    script = (
        "import sys, pipeline; assert 'train' in dir(pipeline); "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pandas'} & sys.modules.keys(); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_the_one_of_its_module_and_documented() -> None:
    for name in pipeline.__all__:
        public = getattr(pipeline, name)
        assert public is getattr(importlib.import_module(pipeline._HOMES[name]), name)
        assert public.__doc__
    assert (Path(pipeline.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        pipeline.tain  # noqa: B018


def test_train_returns_a_run_and_can_be_called_twice_in_one_process(settings: dict[str, Any], tmp_path: Path) -> None:
    first = train(**settings, output_dir=tmp_path / "first")
    second = train(**settings, output_dir=tmp_path / "second")
    assert isinstance(first, Run)
    assert first.folder == tmp_path / "first"
    assert first.metrics == read_json(tmp_path / "first" / RESULTS)
    assert set(first.predictions["split"]) == {"validation", "test"}
    assert first.metrics["test_accuracy"] == first.predictions.query("split == 'test'")["correct"].mean()
    assert first.predictions.drop(columns="id").equals(second.predictions.drop(columns="id"))
    command = read_json(tmp_path / "first" / RECORD)["command"]
    assert command[:2] == ["vit-pipeline", "train"]
    assert "--num_train_epochs=1" in command
    assert str(tmp_path) not in " ".join(command)


def test_the_same_call_returns_the_finished_run(settings: dict[str, Any], tmp_path: Path) -> None:
    loop = ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "refit_head")
    flags = {name: value for name, value in settings.items() if name not in loop}
    flags |= {"strategy": "head", "output_dir": tmp_path / "run"}
    first = train(**flags)
    written = (tmp_path / "run" / RECORD).stat().st_mtime_ns
    assert train(**flags).metrics == first.metrics
    assert (tmp_path / "run" / RECORD).stat().st_mtime_ns == written


def test_problems_raise_the_text_of_the_command_line(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"unknown flag --learning_rat \(did you mean '--learning_rate'\?\)"):
        train(**settings, learning_rat=1)
    with pytest.raises(PipelineError, match=r"^--hflip 2\.0 is out of range: use a value between 0 and 1$"):
        train(**settings, hflip=2, output_dir=tmp_path / "run")
    with pytest.raises(PipelineError, match=r"(?m)^no dataset given: pass --dataset_name FOLDER"):
        train()
    assert list(tmp_path.iterdir()) == []


def test_load_evaluate_and_predict_agree_with_the_run(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    run, classifier = Run(finished_run), load(finished_run)
    assert isinstance(classifier, ImageClassifier)
    metrics = evaluate(finished_run, dataset_name=photos, split="test", output_dir=tmp_path / "scores")
    assert metrics["test_accuracy"] == run.metrics["test_accuracy"]
    table = predict(finished_run, photos / "test", top_k=1, output=tmp_path / "labels.csv")
    scored = run.predictions.query("split == 'test'").set_index("id")
    ids = [str(Path(image).relative_to(photos)) for image in table["image"]]
    assert dict(zip(ids, table["label"], strict=True)) == scored["prediction"].to_dict()
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "image,rank,label,probability,prediction_set"


def test_load_splits_takes_the_flags_of_the_data(photos: Path) -> None:
    splits = load_splits(photos, max_train_samples=6)
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 18, "test": 18}
    assert set(splits["train"].column_names) == {"image", "label", "index"}
    with pytest.raises(PipelineError, match="unknown flag --seed"):
        load_splits(photos, seed=1)
