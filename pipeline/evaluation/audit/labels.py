"""Suspicious labels: rows ordered by how much the image contradicts its label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

MIN_ODDS, MIN_PROBABILITY = 20.0, 0.75
"""Predictions contradict a label if another class is at least this many times as probable, or this probable."""


@dataclass(frozen=True)
class Evidence:
    """What one method says about the labels of a split.

    Attributes:
        trust: How well image and label fit, higher is better; NaN where nothing is known. Shape (images,).
        contradicts: Whether the method contradicts the label, shape (images,).
        likely: The class that it prefers to the given one, shape (images,).
        reasons: What it found, one text an image.
    """

    trust: NDArray[np.float64]
    contradicts: NDArray[np.bool_]
    likely: NDArray[np.int64]
    reasons: Sequence[str]


@dataclass(frozen=True)
class Suspects:
    """The labels of a split that are probably wrong, most suspicious first.

    Attributes:
        rows: Their rows.
        scores: Fraction of the images of the split that are less suspicious.
        likely: The class that is more likely.
        reasons: What was found.
    """

    rows: list[int]
    scores: list[float]
    likely: list[int]
    reasons: list[str]


def of_predictions(probabilities: NDArray[np.floating], labels: NDArray[np.integer], source: str) -> Evidence:
    """Return what class probabilities say about the labels of images that they were not fitted on.

    Args:
        probabilities: Shape (images, classes).
        labels: Given classes, shape (images,).
        source: Who predicts, for the reasons.
    """
    rows = np.arange(len(labels))
    others = probabilities.astype(np.float64)
    given = others[rows, labels]
    others[rows, labels] = -1
    likely = others.argmax(axis=1)
    rival = others[rows, likely]
    reasons = [
        f"{source}: {100 * one:.2g}% for the given label, {100 * other:.2g}% for the likely one"
        for one, other in zip(given, rival, strict=True)
    ]
    contradicts = (rival >= MIN_ODDS * given) | (rival >= MIN_PROBABILITY)
    return Evidence(given, contradicts, likely, reasons)


def of_margins(margins: NDArray[np.floating], rivals: NDArray[np.int64], epochs: float) -> Evidence:
    """Return what the mean logit margins of the training say, see `training.callbacks.margins`.

    Args:
        margins: Shape (images,); NaN for an image that was never seen.
        rivals: The class with the largest other logit, shape (images,).
        epochs: How often an image was seen, on average.
    """
    reasons = [f"mean margin {margin:.2f} over {epochs:.3g} epochs" for margin in margins]
    return Evidence(margins.astype(np.float64), margins < 0, rivals, reasons)


def find_suspects(evidence: Sequence[Evidence]) -> Suspects:
    """Return the labels that all the evidence that there is of an image contradicts.

    They are ordered by the mean of their ranks.

    Args:
        evidence: At least one. The likely class is that of the first one that knows the image.
    """
    known = np.array([~np.isnan(each.trust) for each in evidence])
    suspicion = mean_suspicion(evidence)
    contradicted = np.array([each.contradicts for each in evidence])
    listed = np.flatnonzero((contradicted | ~known).all(axis=0) & known.any(axis=0))
    rows: list[int] = listed[np.argsort(-suspicion[listed], kind="stable")].tolist()
    score = _suspicion(-suspicion)
    knowing = {row: [each for each, knows in zip(evidence, known[:, row], strict=True) if knows] for row in rows}
    return Suspects(
        rows,
        [round(float(score[row]), 4) for row in rows],
        [int(knowing[row][0].likely[row]) for row in rows],
        ["; ".join(each.reasons[row] for each in knowing[row]) for row in rows],
    )


def mean_suspicion(evidence: Sequence[Evidence]) -> NDArray[np.float64]:
    """Return how suspicious the label of each image is, shape (images,): the mean of its ranks, from 0 to 1.

    It is NaN for an image of which nothing is known.
    """
    ranks = np.array([_suspicion(each.trust) for each in evidence])
    known = ~np.isnan(ranks)
    counts = known.sum(axis=0)
    total = np.where(known, ranks, 0).sum(axis=0)
    return np.asarray(np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0))


def _suspicion(trust: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fraction of the images that are trusted more, with ties shared."""
    known = ~np.isnan(trust)
    found = np.full(len(trust), np.nan)
    found[known] = (rankdata(-trust[known]) - 0.5) / max(known.sum(), 1)
    return found
