"""Trials of `--auto`: which ones the budget allows, what is combined, and which candidate is chosen."""

import logging

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.selection.candidates import Candidate, Correct
from pipeline.selection.trials import compare, trial_epochs

IMAGES = 400
RULES = Candidate("the settings above")
FLIPS, GENTLE, STRONG, LARGE = (
    Candidate(name, {flag: 1}, cost)
    for name, flag, cost in (
        ("flips", "hflip", 1),
        ("gentle", "learning_rate", 1),
        ("strong", "augmentation", 1),
        ("large", "image_size", 4),
    )
)
ALL = [RULES, FLIPS, GENTLE, STRONG, LARGE]


def correct(accuracy: float) -> Correct:
    """The first images are the ones that are classified correctly, so models differ as little as they can."""
    return np.arange(IMAGES) < round(accuracy * IMAGES)


class Measured:
    """Accuracies by the flags of a candidate; remembers what was trained."""

    def __init__(self, accuracies: dict[str, float], failing: str = "") -> None:
        self.accuracies, self.failing = accuracies, failing
        self.calls: list[tuple[str, int]] = []

    def __call__(self, candidate: Candidate, epochs: int) -> Correct:
        self.calls.append((candidate.name, epochs))
        if candidate.name == self.failing:
            raise PipelineError("the network does not support it: remove it")
        return correct(self.accuracies.get(candidate.name, 0.5))


def test_every_candidate_is_tried_and_the_best_is_chosen() -> None:
    measure = Measured({"gentle": 0.6, "strong": 0.4, "large": 0.45})
    best, tried = compare(ALL, 10, measure)
    assert best is GENTLE
    assert measure.calls == [(each.name, 10) for each in ALL]
    assert [(trial.candidate, trial.epochs) for trial in tried] == measure.calls
    assert [trial.candidate for trial in tried if trial.chosen] == ["gentle"]
    assert tried[2].accuracy == 0.6
    assert tried[2].flags == {"learning_rate": 1}


def test_the_two_best_are_combined_if_both_beat_the_rules() -> None:
    measure = Measured({"gentle": 0.6, "large": 0.7, "strong": 0.55, "large, gentle": 0.8})
    best, tried = compare(ALL, 10, measure)
    assert best == Candidate("large, gentle", {"image_size": 1, "learning_rate": 1}, 4)
    assert len(tried) == 6
    assert compare(ALL, 10, Measured({"gentle": 0.6, "large": 0.7}))[0] is LARGE  # the combination has 50%
    assert len(compare(ALL, 10, Measured({"gentle": 0.6}))[1]) == 5


def test_candidates_with_a_common_flag_are_not_combined() -> None:
    assert GENTLE.combined(Candidate("steep", {"learning_rate": 2})) is None
    assert GENTLE.combined(RULES) is None


@pytest.mark.parametrize(("more", "chosen"), [(12, RULES), (48, LARGE)])
def test_within_one_standard_error_the_cheapest_wins(more: int, chosen: Candidate) -> None:
    # The models agree on no image, so the standard error of their difference is 5 points: 20 of 400 images.
    rules, large = np.arange(IMAGES) < 200, np.arange(IMAGES) >= 200 - more

    def measure(candidate: Candidate, _: int) -> Correct:
        return large if candidate is LARGE else rules

    assert compare(ALL, 10, measure)[0] is chosen
    assert compare([RULES, LARGE, GENTLE], 10, measure)[0] is chosen


def test_the_cost_decides_a_tie_and_not_the_order() -> None:
    measure = Measured({"large": 0.9, "gentle": 0.9})
    assert compare([RULES, LARGE, GENTLE], 10, measure)[0] is GENTLE


def test_a_candidate_that_the_network_does_not_support_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    best, tried = compare(ALL, 10, Measured({"large": 0.9, "flips": 0.6}, failing="large"))
    assert best is FLIPS
    assert "large" not in {trial.candidate for trial in tried}
    assert "auto: large cannot be tried: the network does not support it" in caplog.text
    with pytest.raises(PipelineError, match="does not support it"):
        compare(ALL, 10, Measured({}, failing=RULES.name))


@pytest.mark.parametrize(
    ("minutes", "reserved", "chosen", "calls"),
    [
        (5, 0, RULES, 1),
        (39, 0, GENTLE, 3),
        (50, 0, LARGE, 5),
        (60, 0, LARGE, 6),
        (59, 2, GENTLE, 3),  # 20 minutes are left for the training
        (70, 2, LARGE, 5),
    ],
)
def test_no_trial_is_begun_that_would_exceed_the_budget(
    monkeypatch: pytest.MonkeyPatch, minutes: int, reserved: int, chosen: Candidate, calls: int
) -> None:
    measure, clock = Measured({"gentle": 0.7, "large": 0.9}), [0.0]

    def slow(candidate: Candidate, epochs: int) -> Correct:
        clock[0] += 60 * epochs
        return measure(candidate, epochs)

    monkeypatch.setattr("pipeline.selection.trials.time.monotonic", lambda: clock[0])
    best, tried = compare(ALL, 10, slow, budget_seconds=60 * minutes, reserved=reserved)
    assert best is chosen
    assert len(measure.calls) == calls == len(tried)
    assert sum(trial.chosen for trial in tried) == 1


@pytest.mark.parametrize(("epochs", "trial"), [(1, 1), (5, 3), (20, 10), (30, 15)])
def test_a_trial_has_half_the_length(epochs: int, trial: int) -> None:
    assert trial_epochs(epochs) == trial
