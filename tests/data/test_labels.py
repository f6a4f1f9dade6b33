"""Labels of any kind become classes with names; what cannot is refused by name."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.data.labels import natural_order
from pipeline.errors import PipelineError
from tests.data.conftest import TWO, assert_shape, draw_classes, labels_of, load, names_of, warnings_in, write_parquet

pytestmark = pytest.mark.usefixtures("empty_cache")


def test_natural_order() -> None:
    assert natural_order(["b", "10", "a2", "9", "a10"]) == ["9", "10", "a10", "a2", "b"]


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        ([5, 12, 5, 7], "int64", ["5", "7", "12"]),
        ([1, 2, 1, 10], "uint8", ["1", "2", "10"]),
        (["10", "9", "9", "b"], "string", ["9", "10", "b"]),
        ([True, False, True, False], "bool", ["false", "true"]),
        ([2.0, 1.0, None, 2.0], "float64", ["1", "2"]),
    ],
)
def test_labels_of_any_kind(values: list[Any], kind: str, names: list[str], tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", values, feature=datasets.Value(kind))
    write_parquet(tmp_path / "validation.parquet", values, feature=datasets.Value(kind))
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation")
    assert names_of(splits["train"]) == names
    spelled = [str(value).lower().removesuffix(".0") for value in values if value is not None]
    assert labels_of(splits["train"]) == spelled


@pytest.mark.parametrize(
    ("values", "feature", "match"),
    [
        ([0.5, 1.0], datasets.Value("float64"), "numbers that are no labels"),
        ([[0, 1], [1]], datasets.List(datasets.Value("int64")), "one label an image is needed"),
        ([b"a", b"b"], datasets.Value("binary"), "one label an image is needed"),
    ],
)
def test_labels_that_are_none_are_refused(values: list[Any], feature: Any, match: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", values, feature=feature, label="target")
    with pytest.raises(PipelineError, match=f"Column target holds .*{match}"):
        load(tmp_path, image_column_name="image")


def test_a_label_beyond_the_names_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 7], feature=TWO)
    with pytest.raises(PipelineError, match="Column label: label 7 is beyond its 2 names"):
        load(tmp_path)


def test_names_keep_the_order_of_train_and_splits_are_mapped_to_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 1], feature=datasets.ClassLabel(names=["z", "a"]))
    write_parquet(tmp_path / "validation.parquet", [0, 1], feature=datasets.ClassLabel(names=["a", "z"]))
    write_parquet(tmp_path / "test.parquet", ["z", "a"])
    splits = load(tmp_path)
    assert names_of(splits["train"]) == ["z", "a"]
    assert splits["validation"]["label"][:] == [1, 0]
    assert splits["test"]["label"][:] == [0, 1]


@pytest.mark.parametrize("none", [None, -1])
def test_rows_without_label_are_dropped_with_a_count(
    none: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, none, 1, none], feature=TWO)
    write_parquet(tmp_path / "test.parquet", [none, none], feature=TWO)
    write_parquet(tmp_path / "validation.parquet", [none, 1, 0], feature=TWO)
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation")
    assert splits["train"]["index"][:] == [0, 2]
    assert splits["validation"]["index"][:] == [1, 2]
    assert warnings_in(caplog) == [
        "test has no labels and is not scored",
        "train: 2 of 4 rows have no label and are left out",
        "validation: 1 of 3 rows have no label and are left out",
    ]


def test_a_split_wholly_without_labels_is_refused_unless_it_is_test(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=TWO)
    write_parquet(tmp_path / "validation.parquet", [-1, -1], feature=TWO)
    with pytest.raises(PipelineError, match="validation has no labels"):
        load(tmp_path)


def test_a_class_that_train_lacks_is_refused_in_every_split_at_once(tmp_path: Path) -> None:
    three = datasets.ClassLabel(names=["a", "b", "c"])
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=three)
    write_parquet(tmp_path / "validation.parquet", [0, 2], feature=three)
    write_parquet(tmp_path / "test.parquet", ["a", "d"])
    with pytest.raises(PipelineError) as caught:
        load(tmp_path)
    assert [line.split(".")[0] for line in str(caught.value).splitlines()] == [
        "validation has classes that train has no image of: 'c'",
        "test has classes that train has no image of: 'd'",
    ]


def test_missing_classes_are_warned_of_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = datasets.ClassLabel(names=[f"c{place}" for place in range(9)])
    write_parquet(tmp_path / "train.parquet", range(8), feature=many)
    write_parquet(tmp_path / "validation.parquet", [0, 1], feature=many)
    assert len(names_of(load(tmp_path)["train"])) == 9
    assert warnings_in(caplog) == [
        "train has no image of 1 of 9 classes: 'c8'",
        "validation has no image of 7 of 9 classes: 'c2', 'c3', 'c4', 'c5', 'c6' and 2 more",
    ]


def test_split_names_as_classes_are_refused(tmp_path: Path) -> None:
    feature = datasets.ClassLabel(names=["test", "train"])
    write_parquet(tmp_path / "all.parquet", [0, 0, 1, 1], feature=feature)
    with pytest.raises(PipelineError, match="The only classes are 'test', 'train', which are names of splits"):
        load(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"rose": 4})
    with pytest.raises(PipelineError, match=r"train has one class only, 'rose'.*at least two"):
        load(tmp_path)
