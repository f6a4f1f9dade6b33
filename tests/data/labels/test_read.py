"""Label columns of every supported type become class indices with names; other columns raise an error."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.labels.read import natural_order
from pipeline.data.sources import load_split
from pipeline.errors import PipelineError
from tests.data.conftest import (
    TWO_CLASSES,
    assert_format,
    class_names_of,
    label_names_of,
    load,
    save_class_folders,
    warnings_in,
    write_parquet,
)

pytestmark = pytest.mark.usefixtures("empty_cache")


def test_natural_order_sorts_numbers_by_value() -> None:
    assert natural_order(["b", "10", "a2", "9", "a10", "-1"]) == ["-1", "9", "10", "a10", "a2", "b"]
    assert natural_order(["9" * 5000, "10"]) == ["10", "9" * 5000]  # Python converts at most 4300 digits


@pytest.mark.parametrize(
    ("values", "dtype", "names"),
    [
        ([5, 12, 5, 7], "int64", ["5", "7", "12"]),
        ([1, 2, 1, 10], "uint8", ["1", "2", "10"]),
        (["10", "9", "9", "b"], "string", ["9", "10", "b"]),
        ([True, False, True, False], "bool", ["false", "true"]),
        ([2.0, 1.0, None, 2.0], "float64", ["1", "2"]),
    ],
)
def test_label_types_become_sorted_class_names(values: list[Any], dtype: str, names: list[str], tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", values, feature=datasets.Value(dtype))
    write_parquet(tmp_path / "validation.parquet", values, feature=datasets.Value(dtype))
    splits = load(tmp_path)
    assert_format(splits, "train", "validation")
    assert class_names_of(splits["train"]) == names
    expected = [str(value).lower().removesuffix(".0") for value in values if value is not None]
    assert label_names_of(splits["train"]) == expected


@pytest.mark.parametrize(
    ("values", "feature", "match"),
    [
        ([0.5, 1.0], datasets.Value("float64"), "numbers that are not integers"),
        (
            [[0, 1], [1]],
            datasets.List(datasets.Value("int64")),
            "pass --label_column_name with a column that has one text or integer label per image",
        ),
        (
            [b"a", b"b"],
            datasets.Value("binary"),
            "pass --label_column_name with a column that has one text or integer label per image",
        ),
    ],
)
def test_columns_without_labels_raise_an_error(values: list[Any], feature: Any, match: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", values, feature=feature, label="target")
    with pytest.raises(PipelineError, match=f"column target contains .*{match}"):
        load(tmp_path, image_column_name="image")


def test_class_index_without_a_name_raises_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 7], feature=TWO_CLASSES)
    with pytest.raises(PipelineError, match="column label contains the class index 7, but it has only 2 class names"):
        load(tmp_path)


def test_other_splits_use_the_class_order_of_train(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 1], feature=datasets.ClassLabel(names=["z", "a"]))
    write_parquet(tmp_path / "validation.parquet", [0, 1], feature=datasets.ClassLabel(names=["a", "z"]))
    write_parquet(tmp_path / "test.parquet", ["z", "a"])
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["z", "a"]
    assert splits["validation"]["label"][:] == [1, 0]
    assert splits["test"]["label"][:] == [0, 1]


@pytest.mark.parametrize("missing", [None, -1])
def test_rows_without_a_label_are_skipped_with_a_warning(
    missing: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, missing, 1, missing], feature=TWO_CLASSES)
    write_parquet(tmp_path / "test.parquet", [missing, missing], feature=TWO_CLASSES)
    write_parquet(tmp_path / "validation.parquet", [missing, 1, 0], feature=TWO_CLASSES)
    splits = load(tmp_path)
    assert_format(splits, "train", "validation")
    assert splits["train"]["index"][:] == [0, 2]
    assert splits["validation"]["index"][:] == [1, 2]
    assert warnings_in(caplog) == [
        "test has no labels; its 2 images will not be evaluated",
        "train: skipping 2 of 4 rows without a label",
        "validation: skipping 1 of 3 rows without a label",
    ]


def test_unlabeled_validation_split_raises_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=TWO_CLASSES)
    write_parquet(tmp_path / "validation.parquet", [-1, -1], feature=TWO_CLASSES)
    with pytest.raises(PipelineError, match="validation has no labels: add labels or pass --label_column_name"):
        load(tmp_path)


def test_classes_missing_from_train_raise_one_error_for_all_splits(tmp_path: Path) -> None:
    three = datasets.ClassLabel(names=["a", "b", "c"])
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=three)
    write_parquet(tmp_path / "validation.parquet", [0, 2], feature=three)
    write_parquet(tmp_path / "test.parquet", ["a", "d"])
    with pytest.raises(PipelineError) as caught:
        load(tmp_path)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "validation has classes without images in train ('c')",
        "test has classes without images in train ('d')",
    ]


def test_warning_names_the_classes_without_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = datasets.ClassLabel(names=[f"c{number}" for number in range(9)])
    write_parquet(tmp_path / "train.parquet", range(8), feature=many)
    write_parquet(tmp_path / "validation.parquet", [0, 1], feature=many)
    assert len(class_names_of(load(tmp_path)["train"])) == 9
    assert warnings_in(caplog) == [
        "train has no images of 1 of 9 classes: 'c8'",
        "validation has no images of 7 of 9 classes: 'c2', 'c3', 'c4', 'c5', 'c6' and 2 more",
    ]


def test_class_names_that_are_split_names_raise_an_error(tmp_path: Path) -> None:
    feature = datasets.ClassLabel(names=["test", "train"])
    write_parquet(tmp_path / "all.parquet", [0, 0, 1, 1], feature=feature)
    with pytest.raises(PipelineError, match="the class names 'test', 'train' are all split names: put class folders"):
        load(tmp_path)


def test_single_class_raises_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"rose": 4})
    with pytest.raises(PipelineError, match="train has only one class, 'rose': add images of at least one more class"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["string", "int64", "float64"])
def test_minus_one_next_to_one_is_a_class(dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values: list[Any] = [-1, 1, 1, -1] if dtype != "string" else ["-1", "1", "1", "-1"]
    write_parquet(tmp_path / "train.parquet", values, feature=datasets.Value(dtype))
    write_parquet(tmp_path / "test.parquet", values[:1] * 2, feature=datasets.Value(dtype))
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["-1", "1"]
    assert label_names_of(splits["test"]) == ["-1", "-1"]
    assert "the label values are -1 and 1, so -1 is a class and does not mean a missing label" in warnings_in(caplog)


def test_minus_one_next_to_other_numbers_is_not_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, -1, 1, 0, -1], feature=datasets.Value("int64"))
    write_parquet(tmp_path / "validation.parquet", [1, -1], feature=datasets.Value("int64"))
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["0", "1"]
    assert "train: skipping 2 of 6 rows without a label ('-1' in 2)" in warnings_in(caplog)
    assert "validation: skipping 1 of 2 rows without a label ('-1' in 1)" in warnings_in(caplog)


@pytest.mark.parametrize("word", ["nan", "NaN", "<NA>", " nan"])
def test_the_words_of_pandas_for_missing_values_are_not_classes(
    word: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(tmp_path / "train.parquet", ["cat", word, "dog", "", "  ", None, word])
    write_parquet(tmp_path / "validation.parquet", ["cat", "dog"])
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["cat", "dog"]
    assert splits["train"]["index"][:] == [0, 2]
    assert f"train: skipping 5 of 7 rows without a label ({word!r} in 2)" in warnings_in(caplog)


def test_the_number_nan_is_a_missing_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [1.0, float("nan"), 2.0], feature=datasets.Value("float64"))
    write_parquet(tmp_path / "validation.parquet", [1.0, 2.0], feature=datasets.Value("float64"))
    assert label_names_of(load(tmp_path)["train"]) == ["1", "2"]


def test_errors_name_the_values_that_mean_no_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["cat", "-1", "-1", "nan"])
    with pytest.raises(PipelineError, match=r"only one class, 'cat' and values that mean no label \('-1' in 2, 'nan'"):
        load(tmp_path)
    write_parquet(tmp_path / "train.parquet", [-1, -1], feature=datasets.Value("int64"))
    with pytest.raises(PipelineError, match=r"train has no labels \('-1' in 2\): add labels or pass"):
        load(tmp_path)


def test_misspelled_classes_are_shown_with_the_similar_class(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["tulip", "rose"])
    write_parquet(tmp_path / "validation.parquet", ["tullip", "rose"])
    with pytest.raises(PipelineError, match=r"train \('tullip'; 'tullip' is similar to 'tulip'\): add images of them"):
        load(tmp_path)


def test_small_classes_are_dropped_from_all_splits_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class_folders(tmp_path / "train", {"a": 4, "b": 3, "c": 1})
    save_class_folders(tmp_path / "test", {"a": 1, "c": 2, "d": 1})
    splits = load(tmp_path, min_images_per_class=2)
    assert class_names_of(splits["train"]) == ["a", "b"]
    assert label_names_of(splits["test"]) == ["a"]
    assert warnings_in(caplog)[0] == (
        "--min_images_per_class 2: dropping 2 of 4 classes from all splits: 'c' (1 image), 'd' (0 images); "
        "skipping their images: 1 in train, 3 in test"
    )
    scored = load_split(
        DataArguments(dataset_name=str(tmp_path), min_images_per_class=2), split="test", class_names=["b", "a"]
    )["test"]
    assert label_names_of(scored) == ["a"]
    with pytest.raises(PipelineError, match="--min_images_per_class 9 drops all images of train, test: use a smaller"):
        load(tmp_path, min_images_per_class=9)
