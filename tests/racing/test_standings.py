"""The order of the entries, the tests against the best one, and what is said about them."""

from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from pipeline.racing.entry import ENSEMBLE, PROBE, Answers, Cost, Entry
from pipeline.racing.standings import best_of, standings

IMAGES = 200


def entry(name: str, correct: range, *, strategy: str = PROBE, rate: float = 10.0, is_network: bool = True) -> Entry:
    """Return an entry that is correct on the images of these numbers."""
    labels = np.zeros(IMAGES, dtype=np.int64)
    predicted = np.ones(IMAGES, dtype=np.int64)
    predicted[list(correct)] = 0
    logits = np.eye(2, dtype=np.float32)[predicted] if is_network else None
    cost = Cost(1000, 0.1, (16, 16), None, rate) if is_network else None
    return Entry(name, strategy, Answers(labels, predicted, logits), cost=cost)


def test_entries_are_compared_with_the_best_by_exact_mcnemar_tests_corrected_by_holm() -> None:
    entries = [
        entry("worse", range(40, 180)),
        entry("best", range(180)),
        entry("similar", range(3, 181), rate=30.0),
        Entry("gone", PROBE, error="it is gone"),
    ]
    found = standings(entries, folder=Path())
    assert [row["backbone"] for row in found["rows"]] == ["best", "similar", "worse", "gone"]
    best, similar, worse, gone = found["rows"]
    assert (best["chosen"], best["p_value"], best["tied"]) == (True, None, False)
    assert (similar["only_this_correct"], similar["only_chosen_correct"]) == (1, 3)
    assert similar["p_value"] == binomtest(1, 4).pvalue  # the larger of two p-values is not changed
    assert worse["p_value"] == 2 * binomtest(0, 40).pvalue  # the smaller one is multiplied by their number
    assert (similar["tied"], worse["tied"], gone["tied"]) == (True, False, False)
    text = " ".join(found["conclusions"])
    assert text.startswith("best (linear probe) has the highest validation accuracy")
    assert "Within noise of it" in text
    assert "similar (linear probe) predicts fastest, 3.0 times as fast as the most accurate one" in text
    assert "worse" not in text


def test_only_one_network_that_can_be_saved_is_chosen() -> None:
    entries = [
        entry("vote", range(190), strategy=ENSEMBLE),
        entry("neighbors", range(189), strategy="kNN (k = 1)", is_network=False),
        entry("slow", range(100), rate=1.0),
        entry("fast", range(50, 150), rate=2.0),
    ]
    assert best_of(entries) is entries[3]
    found = standings(entries, folder=Path())
    assert [row["backbone"] for row in found["rows"]] == ["vote", "neighbors", "fast", "slow"]
    assert (
        "The soft vote differs from it by +45.00 points: a significant difference (p < 0.001)." in found["conclusions"]
    )


def test_a_clear_winner_and_no_winner_are_said() -> None:
    found = standings([entry("good", range(150)), entry("bad", range(20))], folder=Path())
    assert (
        "It is significantly more accurate than every other model (exact McNemar tests, corrected by Holm)."
        in found["conclusions"]
    )
    assert standings([Entry("gone", PROBE, error="x")], folder=Path())["conclusions"] == [
        "No backbone could be compared."
    ]
