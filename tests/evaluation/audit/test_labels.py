"""Suspicious labels: their order, and when a label is listed."""

import numpy as np
import pytest
from cleanlab.rank import get_label_quality_scores

from pipeline.evaluation.audit.labels import find_suspects, mean_suspicion, of_margins, of_predictions

PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.01, 0.9, 0.09], [0.3, 0.4, 0.3], [0.001, 0.009, 0.99]])
LABELS = np.array([0, 0, 0, 1])


def test_predictions_that_contradict_the_label_by_far_are_listed_most_suspicious_first() -> None:
    found = find_suspects([of_predictions(PROBABILITIES, LABELS, "probe")])
    assert found.rows == [3, 1]
    assert found.likely == [2, 1]
    assert found.scores == [0.875, 0.625]  # the middle of the fourth and of the third quarter
    assert found.reasons[1] == "probe: 1% for the given label, 90% for the likely one"


def test_margins_are_listed_below_zero_and_unseen_images_are_not() -> None:
    margins = np.array([2.5, -0.5, np.nan, -3.0], dtype=np.float32)
    found = find_suspects([of_margins(margins, np.array([1, 2, 0, 0]), 7.5)])
    assert found.rows == [3, 1]
    assert found.likely == [0, 2]
    assert found.reasons[0] == "mean margin -3.00 over 7.5 epochs"


def test_two_methods_must_agree_and_their_ranks_are_averaged() -> None:
    predictions = of_predictions(PROBABILITIES, LABELS, "probe")
    margins = of_margins(np.array([1.0, -2.0, -9.0, 4.0]), np.array([1, 2, 2, 0]), 3)
    found = find_suspects([predictions, margins])
    assert found.rows == [1]  # row 2 is contradicted by its margin only, row 3 by the predictions only
    assert found.likely == [1]  # as the first method says
    assert found.reasons[0].count(";") == 1
    assert mean_suspicion([predictions, margins]).tolist() == pytest.approx([0.25, 0.625, 0.625, 0.5])


def test_an_image_that_one_method_does_not_know_is_judged_by_the_other() -> None:
    unknown = PROBABILITIES.copy()
    unknown[1] = np.nan
    predictions = of_predictions(unknown, LABELS, "probe")
    margins = of_margins(np.array([1.0, -2.0, 3.0, np.nan]), np.array([1, 2, 2, 0]), 3)
    found = find_suspects([predictions, margins])
    assert set(found.rows) == {1, 3}
    assert dict(zip(found.rows, found.likely, strict=True)) == {1: 2, 3: 2}
    nothing = of_margins(np.full(4, np.nan), np.zeros(4, dtype=np.int64), 0)
    assert find_suspects([nothing]).rows == []
    assert np.isnan(mean_suspicion([nothing])).all()


def test_the_order_of_predictions_is_that_of_cleanlab() -> None:
    """cleanlab ranks by self-confidence, which is the probability of the given label."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), 200)
    labels = rng.integers(0, 5, 200)
    theirs = get_label_quality_scores(labels, probabilities, method="self_confidence")
    assert of_predictions(probabilities, labels, "probe").trust == pytest.approx(theirs)
