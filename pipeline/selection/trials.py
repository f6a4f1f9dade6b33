"""Successive halving (arXiv:1502.07943): short trainings of a few candidates, compared on validation.

The best ones are trained again for twice as long, together with a combination of the two best, until one is left.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import distributed
from pipeline.errors import PipelineError
from pipeline.selection.candidates import Candidate

logger = logging.getLogger(__name__)

Correct = NDArray[np.bool_]
"""Whether each validation image is classified correctly."""
Measure = Callable[[Candidate, int], Correct]
"""Trains a candidate for a number of epochs."""

MIN_EPOCHS = 2  # shorter trainings say little about longer ones
MAX_SHARE = 2.0  # all trials take at most this multiple of the training itself
BUDGET_HOURS = 1 / 6  # for all trials, without --max_hours


@dataclass(frozen=True)
class Trial:
    """One short training.

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


def plan_epochs(count: int, *, epochs: int, hours: float, budget_hours: float) -> list[int]:
    """Return the epochs of the trials in each round; empty if the budget is too small for trials that say something.

    Args:
        count: Number of candidates.
        epochs: Epochs of the training that follows.
        hours: Expected hours of that training.
        budget_hours: Hours for all trials.
    """
    affordable = epochs * min(MAX_SHARE, budget_hours / max(hours, 1e-9))
    # A power of two, so that a repeated command, whose estimate of the hours differs a little, plans the same trials.
    first = MIN_EPOCHS
    if count < 2 or _cost(count, first) > affordable:
        return []
    while _cost(count, 2 * first) <= affordable:
        first *= 2
    return [first, 2 * first]


def _cost(count: int, first: int) -> int:
    """Return the epochs of all trials: two rounds, and a combination in the second."""
    return count * first + (_half(count) + 1) * 2 * first


def _half(count: int) -> int:
    return -(-count // 2)


def halve(
    contenders: Sequence[Candidate], rounds: Sequence[int], measure: Measure, *, budget_seconds: float = math.inf
) -> tuple[Candidate, list[Trial]]:
    """Return the best candidate, and all trials.

    Among candidates within one standard error of the best one, the cheapest is chosen. The plan rests on an estimate,
    so the time is also measured: a trial that would exceed the budget is not begun, and a round that stays incomplete
    chooses only if it is the first one.

    Args:
        contenders: The candidates, the cheapest first. One that cannot be trained is dropped, with a log line.
        rounds: The epochs of the trials in each round.
        measure: Trains a candidate. All ranks must call it, and get the same.
        budget_seconds: Seconds for all trials.

    Raises:
        PipelineError: If the first candidate, the settings of the rules, cannot be trained.
    """
    trials, left = list[Trial](), list(contenders)
    results: list[tuple[Candidate, Correct]] = []
    longest = rounds[0]
    for epochs in rounds:
        measured, complete = _round(left, epochs, measure, trials, budget_seconds)
        if results and not complete:
            break
        results, longest = measured, epochs
        if not complete:
            break
        left = _next_round(results, contenders[0])
    chosen = _cheapest_of_the_best(results)
    marked = [replace(trial, chosen=trial.candidate == chosen.name and trial.epochs == longest) for trial in trials]
    return chosen, marked


def _round(
    contenders: Sequence[Candidate], epochs: int, measure: Measure, trials: list[Trial], budget_seconds: float
) -> tuple[list[tuple[Candidate, Correct]], bool]:
    """Train each candidate, and append its trial; return the results, and whether the budget sufficed for all."""
    results: list[tuple[Candidate, Correct]] = []
    for candidate in contenders:
        spent = sum(trial.seconds for trial in trials)
        slowest = max((trial.seconds / trial.epochs for trial in trials), default=0.0)
        if distributed.broadcast(spent + slowest * epochs > budget_seconds):  # clocks of ranks differ
            logger.info("auto: no more trials, because %.0f s of %.0f s are spent", spent, budget_seconds)
            return results, False
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
    return results, True


def _trial(candidate: Candidate, epochs: int, correct: Correct, *, seconds: float) -> Trial:
    trial = Trial(candidate.name, dict(candidate.flags), epochs, float(correct.mean()), round(seconds, 1))
    logger.info(
        "auto: %d epochs of %s: %.2f%% on validation, %.0f s", epochs, candidate.name, 100 * trial.accuracy, seconds
    )
    return trial


def _next_round(results: Sequence[tuple[Candidate, Correct]], first: Candidate) -> list[Candidate]:
    """Return the better half, the settings of the rules, and the combination of the two best if both beat these."""
    ranked = sorted(results, key=lambda each: -each[1].mean())  # stable: the cheaper of two equal ones comes first
    kept = [candidate for candidate, _ in ranked[: _half(len(ranked))]]
    if first not in kept:
        kept = [first, *kept[:-1]] if len(kept) > 1 else [first, *kept]
    rules = next(correct.mean() for candidate, correct in results if candidate is first)
    better = [candidate for candidate, correct in ranked if correct.mean() > rules]
    both = better[0].combined(better[1]) if len(better) > 1 else None
    cheapest_first = [candidate for candidate, _ in results if candidate in kept]
    return [*cheapest_first, *([both] if both else [])]


def _cheapest_of_the_best(results: Sequence[tuple[Candidate, Correct]]) -> Candidate:
    best = max(results, key=lambda each: each[1].mean())[1]
    for candidate, correct in results:
        if best.mean() - correct.mean() <= _standard_error(best, correct):
            return candidate
    raise AssertionError("the best candidate is within the error of itself")


def _standard_error(one: Correct, other: Correct) -> float:
    """Return the standard error of the difference between two accuracies on the same images."""
    difference = one.astype(np.float64) - other
    return float(difference.std() / math.sqrt(len(difference)))
