"""Which column holds the images and which the labels."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.errors import PipelineError
from tests.data.conftest import IMAGE, TWO, assert_shape, labels_of, load, picture, write_parquet

pytestmark = pytest.mark.usefixtures("empty_cache")


def write_columns(folder: Path, **features: Any) -> Path:
    """Write a table of one row with these columns."""
    values = {
        name: 0 if isinstance(feature, datasets.ClassLabel) else {"bytes": picture(), "path": None}
        for name, feature in features.items()
    }
    table = datasets.Dataset.from_list([values] * 4, features=datasets.Features(features))
    table.to_parquet(folder / "train.parquet")
    return folder


def test_several_image_columns_are_refused_by_name(tmp_path: Path) -> None:
    write_columns(tmp_path, photo=IMAGE, mask=IMAGE, label=TWO)
    with pytest.raises(PipelineError, match=r"Several columns hold images: photo, mask\. Pass --image_column_name"):
        load(tmp_path)


def test_several_label_columns_are_refused_by_name(tmp_path: Path) -> None:
    write_columns(tmp_path, photo=IMAGE, colour=TWO, shape=TWO)
    with pytest.raises(PipelineError, match=r"Several columns hold labels: colour, shape\. Pass --label_column_name"):
        load(tmp_path)


def test_no_label_column_is_refused_with_the_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"], label="remarks")
    with pytest.raises(PipelineError, match=r"No column of labels among: image, remarks\. Pass --label_column_name"):
        load(tmp_path)


@pytest.mark.parametrize("flag", ["image_column_name", "label_column_name"])
def test_a_named_column_that_is_missing_is_refused_with_the_nearest(flag: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"], image="photograph", label="specimen")
    wrong = {"image_column_name": "photographs", "label_column_name": "speciman"}[flag]
    with pytest.raises(PipelineError, match=rf"--{flag} {wrong}: no such column \(did you mean .*there are: photo"):
        load(tmp_path, **{flag: wrong})


def test_a_named_column_without_images_is_refused(tmp_path: Path) -> None:
    write_columns(tmp_path, image=IMAGE, label=TWO)
    with pytest.raises(PipelineError, match="--image_column_name label: that column holds ClassLabel"):
        load(tmp_path, image_column_name="label")


def test_columns_are_chosen_by_flag_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    labels = [0, 0, 1, 1]
    rows = [{"bytes": picture(), "path": None}] * 4
    table = {"image": rows, "mask": rows, "label": [0] * 4, "colour": labels}
    features = datasets.Features({"image": IMAGE, "mask": IMAGE, "label": TWO, "colour": TWO})
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    splits = load(tmp_path, image_column_name="mask", label_column_name="colour")
    assert_shape(splits, "train", "validation")
    assert f"{tmp_path} is read as Parquet: images in 'mask', labels in 'colour'" in caplog.text


def test_of_coarse_and_fine_labels_the_fine_are_taken(tmp_path: Path) -> None:
    rows = [{"bytes": picture(), "path": None}] * 4
    features = datasets.Features({"img": IMAGE, "coarse_label": TWO, "fine_label": TWO})
    table = {"img": rows, "coarse_label": [0] * 4, "fine_label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    assert set(labels_of(load(tmp_path)["train"])) == {"a", "b"}


def test_a_split_without_the_image_column_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    write_parquet(tmp_path / "test.parquet", ["a", "b"], image="photo")
    with pytest.raises(PipelineError, match="test has no column 'image'; it has: photo, label"):
        load(tmp_path)
