"""The measures of confidence agree with formulas written out image by image, and with scikit-learn."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss

from pipeline.evaluation.confidence import (
    brier_score,
    calibration_error,
    reliability,
    risk_coverage,
    wilson_interval,
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def sample(seed: int, images: int = 400, *, ties: bool = False) -> tuple[Floats, Flags]:
    """Return overconfident confidences and whether each prediction is correct."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, images)
    confidence = confidence.round(1) if ties else confidence
    return confidence, rng.random(images) < 0.8 * confidence


@pytest.mark.parametrize("correct", [0, 1, 4, 9, 10])
def test_wilson_intervals_agree_with_scipy(correct: int) -> None:
    expected = binomtest(correct, 10).proportion_ci(method="wilson")
    assert wilson_interval(correct, 10) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_intervals_of_arrays() -> None:
    low, high = wilson_interval(np.array([0, 7, 5]), np.array([1, 10, 5]))
    assert list(zip(low, high, strict=True)) == [wilson_interval(c, n) for c, n in ((0, 1), (7, 10), (5, 5))]
    assert (low[0], high[2]) == (0, 1)


def test_bins_hold_equally_many_images_in_the_order_of_confidence() -> None:
    confidence, correct = sample(0)
    rows = reliability(confidence, correct, bins=8)
    assert [row.count for row in rows] == [50] * 8
    for row, chosen in zip(rows, np.argsort(confidence).reshape(8, 50), strict=True):
        assert row.confidence == pytest.approx(confidence[chosen].mean())
        assert row.accuracy == correct[chosen].mean()
        assert (row.low, row.high) == wilson_interval(correct[chosen].sum(), 50)
        assert {type(value) for value in vars(row).values()} == {int, float}


def test_sizes_of_bins_differ_by_at_most_one() -> None:
    counts = [row.count for row in reliability(*sample(1, 407))]
    assert len(counts) == 15
    assert sum(counts) == 407
    assert max(counts) - min(counts) <= 1


def test_equal_confidences_share_a_bin() -> None:
    confidence, correct = sample(2, ties=True)
    rows = reliability(confidence, correct, bins=5)
    assert sum(row.count for row in rows) == 400
    edges = np.cumsum([row.count for row in rows])[:-1]
    ordered = np.sort(confidence)
    assert (ordered[edges] > ordered[edges - 1]).all()
    (row,) = reliability([1.0] * 6, [True] * 3 + [False] * 3)
    assert (row.confidence, row.accuracy, row.count) == (1.0, 0.5, 6)


def test_fewer_images_than_bins() -> None:
    rows = reliability([0.9, 0.3, 0.5], [True, False, True])
    assert [(row.confidence, row.accuracy, row.count) for row in rows] == [(0.3, 0, 1), (0.5, 1, 1), (0.9, 1, 1)]
    assert reliability([], []) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_agrees_with_the_formula(seed: int) -> None:
    confidence, correct = sample(seed, 300)
    total = 0.0
    for chosen in np.array_split(np.argsort(confidence), 15):
        gap, rate, n = confidence[chosen].mean() - correct[chosen].mean(), correct[chosen].mean(), len(chosen)
        total += n / 300 * (gap**2 - rate * (1 - rate) / (n - 1))
    assert calibration_error(confidence, correct) == pytest.approx(np.sqrt(max(0, total)))


def test_the_squared_calibration_error_is_unbiased_where_the_plain_one_is_not() -> None:
    # Each bin's true gap is 0.1. The plain estimate adds a_b (1 - a_b) / n_b, here about 0.0104 to 0.01.
    rng = np.random.default_rng(5)
    confidence = np.repeat([0.5, 0.7, 0.9], 20)
    squared = [calibration_error(confidence, rng.random(60) < confidence - 0.1, bins=3) ** 2 for _ in range(4000)]
    assert np.mean(squared) == pytest.approx(0.01, abs=0.002)  # above 0.01, because the estimate is never negative


def test_perfect_and_worst_calibration() -> None:
    ends = np.array([0.0, 1.0] * 20)
    assert calibration_error(ends, ends == 1) == 0.0
    assert calibration_error(ends, ends == 0) == 1.0
    halves = np.full(40, 0.5)
    assert calibration_error(halves, np.arange(40) % 2 == 0) == 0.0  # never negative
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration_error(confidence, rng.random(200_000) < confidence) < 0.005


def test_the_order_of_images_does_not_matter() -> None:
    confidence, correct = sample(3, ties=True)
    order = np.random.default_rng(1).permutation(400)
    assert reliability(confidence, correct) == pytest.approx(reliability(confidence[order], correct[order]))
    assert calibration_error(confidence, correct) == pytest.approx(calibration_error(confidence[order], correct[order]))
    here, there = risk_coverage(confidence, correct), risk_coverage(confidence[order], correct[order])
    np.testing.assert_allclose(here.risk, there.risk)


def test_one_image_says_nothing_about_calibration() -> None:
    assert np.isnan(calibration_error([0.9], [True]))
    assert risk_coverage([0.9], [False]).area == 1.0
    assert [row.count for row in reliability([0.9], [True])] == [1]


def test_risk_and_coverage_by_hand() -> None:
    curve = risk_coverage([0.5, 0.9, 0.8, 0.7], [False, True, False, True])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_risk_of_equal_confidences_is_the_mean_over_their_orders() -> None:
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, True, False, False])
    orders = [[0, *rest] for rest in ([1, 2, 3], [1, 3, 2], [2, 1, 3], [3, 1, 2], [2, 3, 1], [3, 2, 1])]
    risks = [np.cumsum(~correct[order]) / np.arange(1, 5) for order in orders]
    np.testing.assert_allclose(risk_coverage(confidence, correct).risk, np.mean(risks, axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_the_area_agrees_with_its_definition(seed: int) -> None:
    confidence, correct = sample(seed, 100)
    ordered = ~correct[np.argsort(-confidence)]
    assert risk_coverage(confidence, correct).area == pytest.approx(
        np.mean([ordered[:k].mean() for k in range(1, 101)])
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_brier_score_agrees_with_scikit_learn(dtype: type) -> None:
    rng = np.random.default_rng(0)
    probabilities: NDArray[np.floating] = rng.dirichlet(np.full(6, 0.3), 500).astype(dtype)
    labels = rng.integers(0, 6, 500)
    expected = brier_score_loss(labels, probabilities, labels=np.arange(6), scale_by_half=False)
    assert brier_score(probabilities, labels) == pytest.approx(expected, rel=1e-6)


def test_the_brier_score_of_probabilities_of_0_and_1() -> None:
    certain = np.eye(3, dtype=np.float32)
    assert brier_score(certain, np.array([0, 1, 2])) == 0.0
    assert brier_score(certain, np.array([1, 2, 0])) == 2.0
    assert brier_score(certain[:1], np.array([0])) == 0.0
