"""Trials: trainings of half the length with other settings, compared on validation.

Shorter ones mislead. With 600 images and 20 epochs, trials of 2 and 4 epochs preferred a resolution that is worse after
20 epochs; a trial of 10 epochs preferred the settings that are the best after 20 (tests/benchmarks/README.md).
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline import distributed
from pipeline.errors import PipelineError
from pipeline.selection.candidates import Candidate, Correct

logger = logging.getLogger(__name__)

Measure = Callable[[Candidate, int], Correct]
"""Trains a candidate for a number of epochs."""


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        candidate: Name of the candidate.
        flags: The flags that differ from the settings of the rules.
        epochs: Its length.
        accuracy: Accuracy on validation.
        seconds: How long it took.
        chosen: Whether its settings are those of the run.
    """

    candidate: str
    flags: dict[str, Any]
    epochs: int
    accuracy: float
    seconds: float
    chosen: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the trial for `run.json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Budget:
    seconds: float
    reserved: float

    def allows_another(self, trials: Sequence[float]) -> bool:
        """Return whether another trial fits after those that took these seconds."""
        return sum(trials) + (1 + self.reserved) * max(trials, default=0.0) <= self.seconds


def trial_epochs(epochs: int) -> int:
    """Return the length of a trial for a training of that many epochs."""
    return -(-epochs // 2)


def compare(
    contenders: Sequence[Candidate],
    epochs: int,
    measure: Measure,
    *,
    budget_seconds: float = math.inf,
    reserved: float = 0.0,
) -> tuple[Candidate, list[Trial]]:
    """Return the best candidate, and all trials.

    If two candidates beat the first one, the combination of the two best is tried too. Then `cheapest_of_the_best`
    chooses. A trial that would exceed the budget is not begun.

    Args:
        contenders: The candidates; the settings of the rules are the first one. A candidate that cannot be trained is
            dropped, with a log line.
        epochs: Length of the trials.
        measure: Trains a candidate. All ranks must call it, and get the same.
        budget_seconds: Seconds for all trials, and for what is reserved.
        reserved: How many times the seconds of the slowest trial are left for the training.

    Raises:
        PipelineError: If the first candidate cannot be trained.
    """
    trials = list[Trial]()
    budget = _Budget(budget_seconds, reserved)
    results = _try_all(contenders, epochs, measure, trials, budget)
    if (both := _combination(results)) is not None:
        results += _try_all([both], epochs, measure, trials, budget)
    chosen = cheapest_of_the_best(results)
    return chosen, [replace(trial, chosen=trial.candidate == chosen.name) for trial in trials]


def _try_all(
    contenders: Sequence[Candidate], epochs: int, measure: Measure, trials: list[Trial], budget: "_Budget"
) -> list[tuple[Candidate, Correct]]:
    """Train the candidates as long as the budget lasts, append their trials, and return the results."""
    results: list[tuple[Candidate, Correct]] = []
    for candidate in contenders:
        if distributed.broadcast(not budget.allows_another([trial.seconds for trial in trials])):  # clocks differ
            spent = sum(trial.seconds for trial in trials)
            logger.info("auto: no more trials: %.0f s of %.0f s are spent", spent, budget.seconds)
            break
        start = time.monotonic()
        try:
            correct = measure(candidate, epochs)
        except PipelineError as error:
            if not candidate.flags:
                raise
            logger.info("auto: %s cannot be tried: %s", candidate.name, error)
            continue
        results.append((candidate, correct))
        trials.append(_trial(candidate, epochs, correct, seconds=time.monotonic() - start))
    return results


def _trial(candidate: Candidate, epochs: int, correct: Correct, *, seconds: float) -> Trial:
    trial = Trial(candidate.name, dict(candidate.flags), epochs, float(correct.mean()), round(seconds, 1))
    logger.info(
        "auto: %d epochs of %s: %.2f%% on validation, %.0f s", epochs, candidate.name, 100 * trial.accuracy, seconds
    )
    return trial


def _combination(results: Sequence[tuple[Candidate, Correct]]) -> Candidate | None:
    """Return the combination of the two best candidates if both beat the first one and share no flag."""
    rules = results[0][1].mean()
    better = sorted((each for each in results if each[1].mean() > rules), key=lambda each: -each[1].mean())
    return better[0][0].combined(better[1][0]) if len(better) > 1 else None


def cheapest_of_the_best(results: Sequence[tuple[Candidate, Correct]]) -> Candidate:
    """Return the cheapest candidate within one standard error of the best one, and the first of several."""
    best = max(results, key=lambda each: each[1].mean())[1]
    close = [each for each, correct in results if best.mean() - correct.mean() <= standard_error(best, correct)]
    return min(close, key=lambda each: each.cost)


def standard_error(one: Correct, other: Correct) -> float:
    """Return the standard error of the difference between two accuracies on the same images."""
    difference = one.astype(np.float64) - other
    return float(difference.std() / math.sqrt(len(difference)))
