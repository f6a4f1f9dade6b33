"""The image column and the label column are found by type and name, or by flag."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.errors import PipelineError
from tests.data.conftest import (
    IMAGE_FEATURE,
    TWO_CLASSES,
    assert_format,
    label_names_of,
    load,
    png_bytes,
    save_images,
    write_csv,
    write_parquet,
)

pytestmark = pytest.mark.usefixtures("empty_cache")


def write_columns(folder: Path, **features: Any) -> Path:
    """Write a table of four equal rows with these columns."""
    values = {
        name: 0 if isinstance(feature, datasets.ClassLabel) else {"bytes": png_bytes(), "path": None}
        for name, feature in features.items()
    }
    table = datasets.Dataset.from_list([values] * 4, features=datasets.Features(features))
    table.to_parquet(folder / "train.parquet")
    return folder


def test_several_image_columns_raise_an_error_with_their_names(tmp_path: Path) -> None:
    write_columns(tmp_path, photo=IMAGE_FEATURE, mask=IMAGE_FEATURE, label=TWO_CLASSES)
    with pytest.raises(
        PipelineError, match=r"several columns contain images \(photo, mask\): pass --image_column_name"
    ):
        load(tmp_path)


def test_several_label_columns_raise_an_error_with_their_names(tmp_path: Path) -> None:
    write_columns(tmp_path, photo=IMAGE_FEATURE, color=TWO_CLASSES, shape=TWO_CLASSES)
    with pytest.raises(
        PipelineError, match=r"several columns contain labels \(color, shape\): pass --label_column_name"
    ):
        load(tmp_path)


def test_label_columns_whose_names_differ_in_case_raise_an_error(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", "image,label,Label", "1.png,a,x", "2.png,b,y")
    with pytest.raises(PipelineError, match=r"several columns contain labels \(label, Label\): pass"):
        load(tmp_path)


def test_missing_label_column_raises_an_error_with_the_existing_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"], label="caption")
    with pytest.raises(
        PipelineError, match="no label column found among the columns image, caption: pass --label_column_name"
    ):
        load(tmp_path)


@pytest.mark.parametrize("flag", ["image_column_name", "label_column_name"])
def test_unknown_column_name_raises_an_error_with_the_most_similar_column(flag: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"], image="photograph", label="specimen")
    wrong = {"image_column_name": "photographs", "label_column_name": "speciman"}[flag]
    with pytest.raises(
        PipelineError, match=rf"--{flag}: column '{wrong}' not found \(did you mean .*: pass one of photo"
    ):
        load(tmp_path, **{flag: wrong})


def test_image_column_name_of_a_label_column_raises_an_error(tmp_path: Path) -> None:
    write_columns(tmp_path, image=IMAGE_FEATURE, label=TWO_CLASSES)
    with pytest.raises(PipelineError, match="--image_column_name label: the column contains ClassLabel"):
        load(tmp_path, image_column_name="label")


def test_column_flags_select_the_columns_and_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    labels = [0, 0, 1, 1]
    rows = [{"bytes": png_bytes(), "path": None}] * 4
    table = {"image": rows, "mask": rows, "label": [0] * 4, "color": labels}
    features = datasets.Features(
        {"image": IMAGE_FEATURE, "mask": IMAGE_FEATURE, "label": TWO_CLASSES, "color": TWO_CLASSES}
    )
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    splits = load(tmp_path, image_column_name="mask", label_column_name="color")
    assert_format(splits, "train", "validation")
    assert (
        f"read {tmp_path} as Parquet (image column 'mask', label column 'color'; ignoring 'image', 'label')"
        in caplog.text
    )


def test_fine_labels_are_preferred_to_coarse_labels(tmp_path: Path) -> None:
    rows = [{"bytes": png_bytes(), "path": None}] * 4
    features = datasets.Features({"img": IMAGE_FEATURE, "coarse_label": TWO_CLASSES, "fine_label": TWO_CLASSES})
    table = {"img": rows, "coarse_label": [0] * 4, "fine_label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    assert set(label_names_of(load(tmp_path)["train"])) == {"a", "b"}


def test_split_without_the_image_column_raises_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    write_parquet(tmp_path / "test.parquet", ["a", "b"], image="photo")
    with pytest.raises(PipelineError, match="test has no column 'image', only photo, label: use the same"):
        load(tmp_path)


def test_the_only_other_column_is_the_label_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    write_parquet(tmp_path / "train.parquet", ["a", "b"] * 2, label="remarks")
    assert set(label_names_of(load(tmp_path)["train"])) == {"a", "b"}
    assert "using 'remarks', the only other column, as the label column" in caplog.text


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image_id,age,dx", "0"),
        ("id,breed,weight", "0"),
        ("Image Path,Class Name,x", "0.png"),
        ("image,id,choice", "0.png"),
        ("lesion,Image Index,Label", "0.png"),
        (",image,flower", "0"),
    ],
)
def test_columns_are_found_by_the_names_of_the_ecosystem(header: str, row: str, tmp_path: Path) -> None:
    save_images(tmp_path, "0.png")
    columns = header.split(",")
    label = next(name for name in columns if name in ("dx", "breed", "Class Name", "choice", "Label", "flower"))
    image = (
        next(name for name in columns if name in ("image", "Image Path", "image_id", "Image Index"))
        if "breed" not in header
        else "id"
    )
    lines = [",".join({label: value, image: row}.get(name, "7") for name in columns) for value in "abab"]
    write_csv(tmp_path / "labels.csv", header, *lines)
    assert set(label_names_of(load(tmp_path)["train"])) == {"a", "b"}
