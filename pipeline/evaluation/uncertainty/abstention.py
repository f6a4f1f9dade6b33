"""Abstention: answer only if the confidence is high enough for a stated precision of the answers."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from pipeline.evaluation.uncertainty.errors import NotFitted

LEVELS = 20
"""The threshold is the confidence of the most confident 5%, 10%, ... 100% of the validation images."""
ERROR_RATE = 0.05
"""Probability that the precision is lower than stated."""


def fit_threshold(confidence: NDArray[np.float64], correct: NDArray[np.bool_], precision: float) -> float:
    """Return the lowest confidence from which on the answers have the stated precision.

    The precision holds with 95% confidence: the one-sided lower Clopper-Pearson limit of the precision on the accepted
    validation images, at the level 0.05 / `LEVELS`, is at least `precision`. The division (Bonferroni) pays for
    choosing the best of several thresholds.

    Args:
        confidence: Shape (images,).
        correct: Whether each prediction is correct, shape (images,).
        precision: From 0 to 1, without the ends.

    Raises:
        NotFitted: If no threshold has the precision.
    """
    ranked = np.sort(confidence)[::-1]
    images = len(ranked)
    for level in range(LEVELS, 0, -1):
        threshold = float(ranked[-(-images * level // LEVELS) - 1])
        accepted = confidence >= threshold
        right, count = int((correct & accepted).sum()), int(accepted.sum())
        if right and beta.ppf(ERROR_RATE / LEVELS, right, count - right + 1) >= precision:
            return threshold
    needed = int(np.ceil(np.log(ERROR_RATE / LEVELS) / np.log(precision)))
    raise NotFitted(
        f"no confidence has a precision of {precision:g} for certain on {images} validation images, which needs at "
        f"least {needed} correct answers and few wrong ones"
    )
