"""Temperature scaling: one number that makes probabilities as high as they are correct (Guo et al. 2017)."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from pipeline.evaluation.outcomes import CHUNK
from pipeline.evaluation.uncertainty.errors import NotFitted

MAX_STANDARD_ERROR = 0.2
"""Of the logarithm of the temperature: the 95% interval is then about a factor of 1.5 in each direction."""
_RANGE = (math.log(1e-6), math.log(1e6))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the temperature with the lowest negative log-likelihood. It may be below or above 1.

    The negative log-likelihood is convex in 1 / temperature, so its derivative has at most one root. The second
    derivative gives the standard error.

    Args:
        logits: Finite, shape (images, classes).
        labels: True classes, shape (images,).

    Raises:
        NotFitted: If the images do not determine it: the standard error of its logarithm is above
            `MAX_STANDARD_ERROR`, all images are predicted correctly, or equal probabilities are best.
    """
    low, high = (_derivatives(logits, labels, math.exp(end))[0] for end in _RANGE)
    if low >= 0:
        raise NotFitted("equal probabilities have the lowest loss on the validation images")
    if high <= 0:
        raise NotFitted("every validation image is predicted correctly")
    log_inverse = float(brentq(lambda x: _derivatives(logits, labels, math.exp(x))[0], *_RANGE, xtol=1e-10))
    inverse = math.exp(log_inverse)
    error = 1 / (inverse * math.sqrt(len(labels) * max(_derivatives(logits, labels, inverse)[1], 1e-300)))
    if not error <= MAX_STANDARD_ERROR:
        raise NotFitted(
            f"{len(labels)} validation images determine it only up to a factor of {math.exp(2 * error):.3g}"
        )
    return 1 / inverse


def _derivatives(logits: NDArray[np.floating], labels: NDArray[np.integer], inverse: float) -> tuple[float, float]:
    """Return both derivatives of the mean negative log-likelihood with respect to 1 / temperature."""
    first = second = 0.0
    step = max(1, CHUNK // logits.shape[1])
    for start in range(0, len(labels), step):
        rows = logits[start : start + step].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        true = rows[np.arange(len(rows)), labels[start : start + step]]
        weights = np.exp(inverse * rows)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * rows).sum(axis=1)
        first += float((mean - true).sum())
        second += float(((weights * rows**2).sum(axis=1) - mean**2).sum())
    return first / len(labels), second / len(labels)
