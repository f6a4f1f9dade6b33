"""One 0/1 column per class is read as labels, from CSV and from Parquet files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.errors import PipelineError
from tests.data.conftest import (
    IMAGE_FEATURE,
    class_names_of,
    label_names_of,
    load,
    png_bytes,
    save_images,
    warnings_in,
    write_csv,
)

pytestmark = pytest.mark.usefixtures("empty_cache")

ROSE, ASTER, NONE = ("1", "0"), ("0", "1"), ("0", "0")


def write_one_hot(folder: Path, rows: Sequence[tuple[str, str]], *, split: str = "train", header: str = "") -> None:
    save_images(folder, "1.png")
    write_csv(folder / f"{split}.csv", header or "image, rose, aster", *(f"1.png, {a}, {b}" for a, b in rows))


@pytest.mark.parametrize(("zero", "one"), [("0", "1"), ("0.0", "1.0"), ("False", "True")])
def test_columns_of_a_csv_file_are_classes(
    zero: str, one: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    write_one_hot(tmp_path, [(one, zero), (zero, one), (zero, zero)])
    write_one_hot(tmp_path, [(zero, one), (one, zero)], split="validation")
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["rose", "aster"]
    assert [label_names_of(split) for split in splits.values()] == [["rose", "aster"], ["aster", "rose"]]
    assert "train: skipping 1 of 3 rows without a label" in warnings_in(caplog)
    assert "using 2 columns that contain only 0 and 1 as classes: 'rose', 'aster'" in caplog.text


@pytest.mark.parametrize("dtype", ["int64", "float32", "bool", "string"])
def test_columns_of_a_parquet_file_are_classes(dtype: str, tmp_path: Path) -> None:
    cast: Any = {"int64": int, "float32": float, "bool": bool, "string": str}[dtype]
    table = {"image": [{"bytes": png_bytes(), "path": None}] * 4, "age": [30, 40, 50, 60]}
    table |= {"rose": [cast(i % 2) for i in range(4)], "aster": [cast(1 - i % 2) for i in range(4)]}
    types = {name: datasets.Value(dtype) for name in ("rose", "aster")}
    features = datasets.Features({"image": IMAGE_FEATURE, "age": datasets.Value("int64")} | types)
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    assert sorted(label_names_of(load(tmp_path)["train"])) == ["aster", "rose"]


def test_rows_with_several_labels_raise_an_error_that_counts_them(tmp_path: Path) -> None:
    write_one_hot(tmp_path, [ROSE, ASTER, ("1", "1"), ("1", "1")])
    with pytest.raises(PipelineError, match=r"train: 2 of 4 rows have a 1 in several of .* \(first: row 2\)"):
        load(tmp_path)


def test_split_without_one_of_the_columns_raises_an_error(tmp_path: Path) -> None:
    write_one_hot(tmp_path, [ROSE, ASTER])
    write_one_hot(tmp_path, [ROSE, ASTER], split="test", header="image, rose, x")
    with pytest.raises(PipelineError, match="test has no column 'aster', which is a class in train"):
        load(tmp_path)


def test_test_split_without_the_columns_has_no_labels(tmp_path: Path) -> None:
    write_one_hot(tmp_path, [ROSE, ASTER] * 2)
    write_csv(tmp_path / "test.csv", "image", "1.png")
    assert list(load(tmp_path)) == ["train", "validation"]


def test_a_label_column_takes_precedence(tmp_path: Path) -> None:
    write_one_hot(tmp_path, [ROSE, ASTER] * 2, header="image, label, aster")
    assert class_names_of(load(tmp_path)["train"]) == ["0", "1"]


def test_one_of_the_columns_as_label_column_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_one_hot(tmp_path, [ROSE, ASTER] * 2)
    assert class_names_of(load(tmp_path, label_column_name="rose")["train"]) == ["0", "1"]
    assert "column 'rose' is one of 2 columns that contain only 0 and 1" in caplog.text


def test_a_column_without_values_is_not_a_class(tmp_path: Path) -> None:
    save_images(tmp_path, "1.png")
    write_csv(tmp_path / "train.csv", "image,rose,aster,comment", *("1.png,1,0,", "1.png,0,1,") * 2)
    assert class_names_of(load(tmp_path)["train"]) == ["rose", "aster"]
