"""Answers above the threshold have the stated precision with 95% confidence."""

import numpy as np
import pytest
from scipy.stats import beta

from pipeline.evaluation.uncertainty.abstention import LEVELS, fit_threshold
from pipeline.evaluation.uncertainty.errors import NotFitted


def test_the_stated_precision_holds_for_almost_all_samples() -> None:
    broken = fitted = 0
    for seed in range(400):
        confidence = np.sqrt(np.random.default_rng(seed).random(800))
        correct = np.random.default_rng(seed + 1000).random(800) < confidence
        try:
            threshold = fit_threshold(confidence, correct, 0.85)
        except NotFitted:
            continue
        fitted += 1
        # The density is 2c on [0, 1], so this is the precision above t: the mean of c, weighted with 2c.
        precision = 2 / 3 * (1 - threshold**3) / (1 - threshold**2)
        broken += precision < 0.85
    assert fitted > 350
    assert broken / fitted <= 0.05


def test_the_threshold_is_the_lowest_that_the_bound_allows() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.random(1000).round(2)  # with ties
    correct = rng.random(1000) < 0.5 + confidence / 2
    allowed = []
    for level in range(1, LEVELS + 1):
        threshold = np.sort(confidence)[::-1][1000 * level // LEVELS - 1]
        right, count = correct[confidence >= threshold].sum(), (confidence >= threshold).sum()
        if beta.ppf(0.05 / LEVELS, right, count - right + 1) >= 0.8:
            allowed.append(threshold)
    assert fit_threshold(confidence, correct, 0.8) == min(allowed)


def test_597_correct_answers_are_needed_for_99_percent() -> None:
    assert fit_threshold(np.linspace(0.5, 1, 597), np.ones(597, dtype=bool), 0.99) == 0.5
    with pytest.raises(NotFitted, match="596 validation images, which needs at least 597 correct"):
        fit_threshold(np.linspace(0.5, 1, 596), np.ones(596, dtype=bool), 0.99)


def test_a_model_that_is_always_wrong_never_answers() -> None:
    with pytest.raises(NotFitted, match=r"no confidence has a precision of 0\.5"):
        fit_threshold(np.ones(500), np.zeros(500, dtype=bool), 0.5)


def test_equal_confidences_are_accepted_together() -> None:
    assert fit_threshold(np.ones(500), np.ones(500, dtype=bool), 0.9) == 1.0
