"""Slices on which the model is worse are found; chance is not; the test is Fisher's."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact

from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.slices import score_slices


def test_a_planted_weakness_is_found_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    attributes = {
        "width": rng.integers(32, 500, 800),
        "brightness": rng.random(800),
        "file type": rng.choice([".jpg", ".png", ".webp"], 800),
    }
    dark = attributes["brightness"] < 0.2
    correct = rng.random(800) < np.where(dark, 0.5, 0.9)
    slices = score_slices(attributes, correct)
    (worst,) = [row for row in slices if row.worse]
    assert worst.attribute == "brightness"
    assert slices[0] == worst
    first, last = map(float, worst.value.split(" to "))
    chosen = attributes["brightness"] <= last + 1e-6
    assert first < 0.01
    assert worst.samples == chosen.sum() == 200
    assert (worst.accuracy, worst.rest_accuracy) == (correct[chosen].mean(), correct[~chosen].mean())
    assert (worst.low, worst.high) == wilson_interval(correct[chosen].sum(), 200)
    assert len(slices) == 4 + 4 + 3


def test_the_p_values_are_those_of_fishers_test_with_the_correction() -> None:
    rng = np.random.default_rng(1)
    folder, correct = rng.choice(["a", "b", "c"], 90), rng.random(90) < 0.6
    tables = [
        [[sum(correct & (folder == n)), sum(~correct & (folder == n))],
         [sum(correct & (folder != n)), sum(~correct & (folder != n))]]
        for n in "abc"
    ]  # fmt: skip
    expected = false_discovery_control([fisher_exact(table, alternative="less").pvalue for table in tables])
    found = {row.value: row.p_value for row in score_slices({"folder": folder}, correct)}
    assert [found[n] for n in "abc"] == pytest.approx(list(expected))


def test_chance_is_rarely_called_a_weakness() -> None:
    rng, repeats = np.random.default_rng(2), 200
    called = 0
    for _ in range(repeats):
        attributes = {f"number {i}": rng.random(200) for i in range(5)}
        called += any(row.worse for row in score_slices(attributes, rng.random(200) < 0.8))
    assert called / repeats <= 0.08  # 20 uncorrected tests would call more than half of them


def test_equal_numbers_share_a_slice() -> None:
    slices = score_slices({"width": [64] * 30 + [128] * 10}, [True] * 35 + [False] * 5)
    assert [(row.value, row.samples) for row in slices] == [("128", 10), ("64", 30)]
    assert slices[0].worse
    assert slices[1].p_value == 1


@pytest.mark.parametrize("correct", [True, False])
def test_nothing_is_worse_if_all_predictions_are_alike(correct: bool) -> None:
    slices = score_slices({"width": np.arange(40)}, [correct] * 40)
    assert [row.p_value for row in slices] == [1.0] * 4


def test_small_slices_and_those_of_all_images_are_not_tried() -> None:
    correct = [True, False] * 10
    folders = ["a"] * 11 + ["b"] * 9
    assert [row.value for row in score_slices({"folder": folders, "width": [64] * 20}, correct)] == ["a"]
    assert score_slices({"width": [64] * 20}, correct) == []
    assert score_slices({"width": [64]}, [True]) == []


def test_images_without_a_number_are_in_no_slice_of_it() -> None:
    width = np.where(np.arange(60) < 20, np.nan, np.arange(60.0))
    slices = score_slices({"width": width}, np.arange(60) % 2 == 0)
    assert sorted(row.value for row in slices) == ["20 to 29", "30 to 39", "40 to 49", "50 to 59"]
    assert score_slices({"width": np.full(60, np.nan)}, np.arange(60) % 2 == 0) == []
