"""Successive halving: which trials a budget allows, which candidates go on, and which one is chosen."""

import logging

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.selection.candidates import Candidate
from pipeline.selection.trials import MAX_SHARE, MIN_EPOCHS, Correct, halve, plan_epochs

IMAGES = 400
RULES = Candidate("the settings above")
FLIPS, GENTLE, STRONG, LARGE = (
    Candidate(name, {flag: 1})
    for name, flag in (
        ("flips", "hflip"),
        ("gentle", "learning_rate"),
        ("strong", "augmentation"),
        ("large", "image_size"),
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


def test_the_better_half_and_the_rules_go_on_and_the_best_is_chosen() -> None:
    measure = Measured({"gentle": 0.6, "strong": 0.4, "large": 0.45})
    best, tried = halve(ALL, [2, 4], measure)
    assert best is GENTLE
    assert measure.calls == [(each.name, 2) for each in ALL] + [(each.name, 4) for each in (RULES, FLIPS, GENTLE)]
    assert [(trial.candidate, trial.epochs) for trial in tried] == measure.calls
    assert [(trial.candidate, trial.epochs) for trial in tried if trial.chosen] == [("gentle", 4)]
    assert tried[2].accuracy == 0.6
    assert tried[2].flags == {"learning_rate": 1}


def test_the_two_best_are_combined_if_both_beat_the_rules() -> None:
    measure = Measured({"gentle": 0.6, "large": 0.7, "large, gentle": 0.8})
    best, _ = halve(ALL, [2, 4], measure)
    assert best == Candidate("large, gentle", {"image_size": 1, "learning_rate": 1})
    assert [name for name, epochs in measure.calls if epochs == 4] == [
        "the settings above",
        "gentle",
        "large",
        "large, gentle",
    ]


def test_candidates_with_a_common_flag_are_not_combined() -> None:
    assert GENTLE.combined(Candidate("steep", {"learning_rate": 2})) is None
    assert GENTLE.combined(RULES) is None


@pytest.mark.parametrize(("more", "chosen"), [(12, RULES), (48, LARGE)])
def test_within_one_standard_error_the_cheapest_wins(more: int, chosen: Candidate) -> None:
    # The models agree on no image, so the standard error of their difference is 5 points: 20 of 400 images.
    rules, large = np.arange(IMAGES) < 200, np.arange(IMAGES) >= 200 - more

    def measure(candidate: Candidate, _: int) -> Correct:
        return large if candidate is LARGE else rules

    assert halve(ALL, [2, 4], measure)[0] is chosen


def test_a_candidate_that_the_network_does_not_support_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    best, tried = halve(ALL, [2, 4], Measured({"large": 0.9, "flips": 0.6}, failing="large"))
    assert best is FLIPS
    assert "large" not in {trial.candidate for trial in tried}
    assert "auto: large cannot be tried: the network does not support it" in caplog.text
    with pytest.raises(PipelineError, match="does not support it"):
        halve(ALL, [2, 4], Measured({}, failing=RULES.name))


@pytest.mark.parametrize(
    ("minutes", "chosen", "calls"), [(5, RULES, 2), (12, GENTLE, 5), (17, GENTLE, 6), (100, LARGE, 9)]
)
def test_no_trial_is_begun_that_would_exceed_the_budget(
    monkeypatch: pytest.MonkeyPatch, minutes: int, chosen: Candidate, calls: int
) -> None:
    # In the first round a lower learning rate is the best; in the second, which takes twice as long, the resolution.
    measure, clock = Measured({"gentle": 0.7, "large": 0.6}), [0.0]

    def slow(candidate: Candidate, epochs: int) -> Correct:
        clock[0] += 60 * epochs
        if epochs == 4:
            measure.accuracies["large"] = 0.9
        return measure(candidate, epochs)

    monkeypatch.setattr("pipeline.selection.trials.time.monotonic", lambda: clock[0])
    best, tried = halve(ALL, [2, 4], slow, budget_seconds=60 * minutes)
    assert best == chosen
    assert len(measure.calls) == calls == len(tried)
    assert sum(trial.chosen for trial in tried) == 1


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("epochs", [5, 20, 30, 300])
@pytest.mark.parametrize("hours", [0.001, 0.1, 1.0, 10.0])
def test_the_trials_stay_in_the_budget(count: int, epochs: int, hours: float) -> None:
    rounds = plan_epochs(count, epochs=epochs, hours=hours, budget_hours=1.0)
    if not rounds:
        shortest = (count + 2 * (-(-count // 2) + 1)) * MIN_EPOCHS
        assert min(epochs / hours, MAX_SHARE * epochs) < shortest
        return
    measure = Measured({"flips": 0.6, "gentle": 0.7})
    halve([RULES, *(Candidate(f"{n}", {f"{n}": n}) for n in range(count - 1))], rounds, measure)
    spent = sum(length for _, length in measure.calls)
    assert spent * hours / epochs <= 1.0
    assert spent <= MAX_SHARE * epochs
    assert rounds[0] >= MIN_EPOCHS


def test_an_estimate_that_differs_a_little_plans_the_same_trials() -> None:
    plans = {tuple(plan_epochs(5, epochs=30, hours=hours, budget_hours=1 / 6)) for hours in (0.06, 0.065, 0.07)}
    assert plans == {(4, 8)}
    assert plan_epochs(1, epochs=30, hours=0.1, budget_hours=1) == []
