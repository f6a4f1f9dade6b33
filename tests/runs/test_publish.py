"""A push publishes no path of this machine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.evaluation.predictions import Predictions, read_predictions, write_predictions
from pipeline.runs.folder import CARD, PREDICTIONS, RESULTS, TRAINER_STATE, RunFolder, start
from pipeline.runs.publish import public_recipe, published_contents


def run_with(folder: Path, *ids: str, **settings: Any) -> Path:
    """Return a run folder with predictions of these ids; the model files are as small as their formats allow."""
    folder.mkdir(parents=True, exist_ok=True)
    start(RunFolder(folder), command=["train"], arguments={"seed": 1} | settings, data={}, machine={})
    for name in ("config.json", "preprocessor_config.json", CARD, RESULTS, TRAINER_STATE):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + bytes(9))
    logits = np.zeros((len(ids), 2), np.float32)
    write_predictions(
        folder / PREDICTIONS, [Predictions("test", ids, np.zeros(len(ids), np.int64), logits)], ["a", "b"]
    )
    return folder


def test_the_public_recipe_has_no_absolute_path(tmp_path: Path) -> None:
    long = "/home/ann/" + "a folder with a long name " * 5 + "photos"
    run_with(tmp_path, dataset_name="/home/ann/odd: photos #1", model_name_or_path=long)
    published = public_recipe(tmp_path)
    assert yaml.safe_load(published)["dataset_name"] == "odd: photos #1"
    assert yaml.safe_load(published)["seed"] == 1
    assert "/home/ann/" not in published
    assert RunFolder(tmp_path).arguments["dataset_name"] == "/home/ann/odd: photos #1"


def test_files_are_published_as_they_are(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", "test/rose/1.png")
    contents = published_contents(folder)
    assert {name for name, content in contents.items() if content != folder / name} == {"recipe.yaml"}


def test_the_ids_of_an_earlier_version_are_published_relative_to_the_dataset(tmp_path: Path) -> None:
    folder = run_with(
        tmp_path / "run", "/home/ann/photos/test/rose/1.png", "/mnt/2.png", dataset_name="/home/ann/photos"
    )
    published = published_contents(folder)[PREDICTIONS]
    assert isinstance(published, bytes)
    (tmp_path / "published.parquet").write_bytes(published)
    (before,), names = read_predictions(folder / PREDICTIONS)
    (after,), same_names = read_predictions(tmp_path / "published.parquet")
    assert after.ids == ["test/rose/1.png", "2.png"]
    assert names == same_names
    assert np.array_equal(before.logits, after.logits)
    assert before.ids[0].startswith("/home/ann/")  # the file of the run is not changed


@pytest.mark.parametrize("name", ["config.json", CARD, TRAINER_STATE, "model.safetensors"])
def test_a_file_that_names_a_folder_of_this_machine_is_not_published(tmp_path: Path, name: str) -> None:
    folder = run_with(tmp_path / "run", "1.png", dataset_name="/home/ann/photos")
    text = b'{"from": "/home/ann/photos"}'
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text if name == "model.safetensors" else text)
    with pytest.raises(PipelineError, match=f"{name} contains /home/ann/photos, a path of this machine"):
        published_contents(folder)


def test_a_longer_path_is_another_path(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", "1.png", dataset_name="/home/ann/photos")
    (folder / CARD).write_text("see /home/ann/photos2 and /mnt/home/ann/photos")
    published_contents(folder)
