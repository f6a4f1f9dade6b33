"""Which row is in which split: cuts, limits and names."""

import logging
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from pipeline.data.splits import hold_out_rows, limit_rows
from pipeline.errors import PipelineError
from tests.data.conftest import assert_shape, draw_classes, labels_of, load, warnings_in, write_parquet

pytestmark = pytest.mark.usefixtures("empty_cache")


def rows_by_file(splits: datasets.DatasetDict) -> dict[str, list[str]]:
    return {name: [image["path"] for image in split["image"]] for name, split in splits.items()}


def test_validation_is_cut_stratified_and_test_is_never_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    draw_classes(tmp_path / "train", {"a": 20, "b": 40, "c": 2})
    draw_classes(tmp_path / "test", {"a": 3, "b": 3, "c": 3})
    splits = load(tmp_path, validation_fraction=0.25)
    assert_shape(splits, "train", "validation", "test")
    assert Counter(labels_of(splits["train"])) == {"a": 15, "b": 30, "c": 1}
    assert Counter(labels_of(splits["validation"])) == {"a": 5, "b": 10, "c": 1}
    assert len(splits["test"]) == 9
    assert sorted([*splits["train"]["index"], *splits["validation"]["index"]]) == list(range(62))
    assert "no validation split: 16 of 62 train images are cut for it" in caplog.text
    again = load(tmp_path, validation_fraction=0.25)
    assert rows_by_file(again) == rows_by_file(splits)
    other = load(tmp_path, validation_fraction=0.25, split_seed=1)
    assert rows_by_file(other)["validation"] != rows_by_file(splits)["validation"]
    assert rows_by_file(other)["test"] == rows_by_file(splits)["test"]


def test_an_official_validation_split_stays_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    for name in ("train", "validation"):
        draw_classes(tmp_path / name, {"a": 3, "b": 3})
    splits = load(tmp_path)
    assert [len(split) for split in splits.values()] == [6, 6]
    assert "no test split: only validation is scored" in caplog.text


@pytest.mark.parametrize("counts", [[10] * 102, [2] * 50, [3, 500, 7, 41], [2, 2, 1000]])
@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.99])
def test_cuts_keep_every_class_and_the_share(counts: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, cut = hold_out_rows(labels, fraction=fraction, seed=3)
    assert sorted([*kept, *cut]) == list(range(len(labels)))
    in_cut = np.bincount(labels[cut], minlength=len(counts))
    for count, taken in zip(counts, in_cut, strict=True):
        assert 1 <= taken <= count - 1
        assert abs(taken - count * fraction) <= 1 or taken in (1, count - 1)
    if all(1 <= count * fraction <= count - 1 for count in counts):
        assert len(cut) == round(len(labels) * fraction)


def test_choices_do_not_depend_on_the_numbering_of_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 200)
    renumbered = np.array([3, 9, 1, 0, 12, 2, 5])[labels]
    for one, other in zip(
        hold_out_rows(labels, fraction=0.15, seed=5), hold_out_rows(renumbered, fraction=0.15, seed=5), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(limit_rows(labels, limit=33, seed=5), limit_rows(renumbered, limit=33, seed=5))


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": 5, "b": 1, "c": 1})
    with pytest.raises(PipelineError, match="train is too small to split: one image only of 'b', 'c'"):
        load(tmp_path)


@pytest.mark.parametrize(("limit", "expected"), [(6, [2, 2, 2]), (10, [4, 4, 2]), (999, [20, 10, 2])])
def test_limits_are_balanced_over_classes(limit: int, expected: list[int], tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        draw_classes(tmp_path / name, {"a": 20, "b": 10, "c": 2})
    splits = load(tmp_path, max_train_samples=limit, max_eval_samples=3, max_test_samples=1)
    assert [Counter(labels_of(splits["train"]))[name] for name in "abc"] == expected
    assert sorted(labels_of(splits["validation"])) == ["a", "b", "c"]
    assert len(splits["test"]) == 1


def test_limits_are_seeded_and_not_the_first_rows(tmp_path: Path) -> None:
    draw_classes(tmp_path / "train", {"a": 30, "b": 30})
    draw_classes(tmp_path / "validation", {"a": 1, "b": 1})
    rows = {seed: load(tmp_path, max_train_samples=10, split_seed=seed)["train"]["index"][:] for seed in (1, 2)}
    assert rows[1] != rows[2]
    assert load(tmp_path, max_train_samples=10, split_seed=1)["train"]["index"][:] == rows[1]
    assert rows[1] == sorted(rows[1])
    assert rows[1] != [*range(5), *range(30, 35)]


def test_the_only_split_is_train_whatever_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "test.parquet", ["a", "b"] * 3)
    assert_shape(load(tmp_path), "train", "validation")
    assert "the only split, test, is taken for train" in warnings_in(caplog)


def test_no_train_split_is_refused(tmp_path: Path) -> None:
    for name in ("validation", "test"):
        write_parquet(tmp_path / f"{name}.parquet", ["a", "b"])
    with pytest.raises(PipelineError, match="no train split; there are: validation, test"):
        load(tmp_path)


def test_bad_images_fail_or_are_skipped_in_every_split(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        draw_classes(tmp_path / name, {"a": 2, "b": 2})
    (tmp_path / "test" / "b" / "0.png").write_bytes(b"damaged")
    with pytest.raises(PipelineError, match=r"test: 1 of 4 images cannot be read: .*/test/b/0\.png: not an image"):
        load(tmp_path)
    splits = load(tmp_path, bad_images="skip")
    assert splits["test"]["index"][:] == [0, 1, 3]
