"""Held-out validation splits, sample limits and split names."""

import logging
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from pipeline.data.splits import hold_out_rows, limit_rows
from pipeline.errors import PipelineError
from tests.data.conftest import assert_format, label_names_of, load, save_class_folders, warnings_in, write_parquet

pytestmark = pytest.mark.usefixtures("empty_cache")


def rows_by_file(splits: datasets.DatasetDict) -> dict[str, list[str]]:
    return {name: [image["path"] for image in split["image"]] for name, split in splits.items()}


def test_validation_is_held_out_stratified_and_test_is_unchanged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    save_class_folders(tmp_path / "train", {"a": 20, "b": 40, "c": 2})
    save_class_folders(tmp_path / "test", {"a": 3, "b": 3, "c": 3})
    splits = load(tmp_path, validation_fraction=0.25)
    assert_format(splits, "train", "validation", "test")
    assert Counter(label_names_of(splits["train"])) == {"a": 15, "b": 30, "c": 1}
    assert Counter(label_names_of(splits["validation"])) == {"a": 5, "b": 10, "c": 1}
    assert len(splits["test"]) == 9
    assert sorted([*splits["train"]["index"], *splits["validation"]["index"]]) == list(range(62))
    assert "no validation split; holding out 16 of 62 training images (stratified, seed 42)" in caplog.text
    again = load(tmp_path, validation_fraction=0.25)
    assert rows_by_file(again) == rows_by_file(splits)
    other = load(tmp_path, validation_fraction=0.25, split_seed=1)
    assert rows_by_file(other)["validation"] != rows_by_file(splits)["validation"]
    assert rows_by_file(other)["test"] == rows_by_file(splits)["test"]


def test_official_validation_split_is_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    for name in ("train", "validation"):
        save_class_folders(tmp_path / name, {"a": 3, "b": 3})
    splits = load(tmp_path)
    assert [len(split) for split in splits.values()] == [6, 6]
    assert "no test split; only validation will be evaluated" in caplog.text


@pytest.mark.parametrize("counts", [[10] * 102, [2] * 50, [3, 500, 7, 41], [2, 2, 1000]])
@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.99])
def test_hold_out_keeps_every_class_and_the_fraction(counts: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    train, validation = hold_out_rows(labels, fraction=fraction, seed=3)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    held_out_counts = np.bincount(labels[validation], minlength=len(counts))
    for count, held_out in zip(counts, held_out_counts, strict=True):
        assert 1 <= held_out <= count - 1
        assert abs(held_out - count * fraction) <= 1 or held_out in (1, count - 1)
    if all(1 <= count * fraction <= count - 1 for count in counts):
        assert len(validation) == round(len(labels) * fraction)


def test_selected_rows_do_not_depend_on_class_numbers() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 200)
    renumbered = np.array([3, 9, 1, 0, 12, 2, 5])[labels]
    for expected, actual in zip(
        hold_out_rows(labels, fraction=0.15, seed=5), hold_out_rows(renumbered, fraction=0.15, seed=5), strict=True
    ):
        np.testing.assert_array_equal(expected, actual)
    np.testing.assert_array_equal(limit_rows(labels, limit=33, seed=5), limit_rows(renumbered, limit=33, seed=5))


def test_class_with_one_image_raises_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"a": 5, "b": 1, "c": 1})
    with pytest.raises(
        PipelineError, match="cannot hold out a validation split, because train has only one image of 'b', 'c': add"
    ) as caught:
        load(tmp_path)
    assert "--min_images_per_class 1 to keep these classes in train only" in str(caught.value)


def test_min_images_per_class_keeps_or_drops_classes_with_one_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_class_folders(tmp_path, {"a": 5, "b": 1, "c": 4})
    kept = load(tmp_path, min_images_per_class=1)
    assert Counter(label_names_of(kept["train"]))["b"] == 1
    assert set(label_names_of(kept["validation"])) == {"a", "c"}
    assert "validation has no images of 1 classes with one image, 'b'" in warnings_in(caplog)
    dropped = load(tmp_path, min_images_per_class=2)
    assert set(label_names_of(dropped["train"])) == set(label_names_of(dropped["validation"])) == {"a", "c"}


@pytest.mark.parametrize(("limit", "expected"), [(6, [2, 2, 2]), (10, [4, 4, 2]), (999, [20, 10, 2])])
def test_sample_limits_are_balanced_across_classes(limit: int, expected: list[int], tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        save_class_folders(tmp_path / name, {"a": 20, "b": 10, "c": 2})
    splits = load(tmp_path, max_train_samples=limit, max_eval_samples=3, max_test_samples=1)
    assert [Counter(label_names_of(splits["train"]))[name] for name in "abc"] == expected
    assert sorted(label_names_of(splits["validation"])) == ["a", "b", "c"]
    assert len(splits["test"]) == 1


def test_sample_limits_select_random_rows_by_seed(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "train", {"a": 30, "b": 30})
    save_class_folders(tmp_path / "validation", {"a": 1, "b": 1})
    rows = {seed: load(tmp_path, max_train_samples=10, split_seed=seed)["train"]["index"][:] for seed in (1, 2)}
    assert rows[1] != rows[2]
    assert load(tmp_path, max_train_samples=10, split_seed=1)["train"]["index"][:] == rows[1]
    assert rows[1] == sorted(rows[1])
    assert rows[1] != [*range(5), *range(30, 35)]


def test_single_split_is_used_as_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "test.parquet", ["a", "b"] * 3)
    assert_format(load(tmp_path), "train", "validation")
    assert "using the only split, test, as train" in warnings_in(caplog)


def test_missing_train_split_raises_an_error(tmp_path: Path) -> None:
    for name in ("validation", "test"):
        write_parquet(tmp_path / f"{name}.parquet", ["a", "b"])
    with pytest.raises(PipelineError, match="has no train split, only validation, test: add a train split"):
        load(tmp_path)


def test_bad_images_policy_applies_to_every_split(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        save_class_folders(tmp_path / name, {"a": 2, "b": 2})
    (tmp_path / "test" / "b" / "0.png").write_bytes(b"damaged")
    with pytest.raises(PipelineError, match=r"test: 1 of 4 images cannot be read: .*/test/b/0\.png: not an image"):
        load(tmp_path)
    splits = load(tmp_path, bad_images="skip")
    assert splits["test"]["index"][:] == [0, 1, 3]


def test_single_images_of_all_classes_raise_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(PipelineError, match=r"train has only one image of each class \('a', 'b'\): add"):
        load(tmp_path, min_images_per_class=1)
