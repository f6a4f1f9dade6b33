"""How far confidences can be trusted: reliability, calibration error, risk and coverage, Brier score.

The confidence of an image is the probability of its predicted class. Images with equal confidence share a bin, and
their order has no influence.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """Images of similar confidence.

    Attributes:
        confidence: Mean confidence.
        accuracy: Fraction of correct predictions.
        low: Lower end of Wilson's 95% interval of the accuracy.
        high: Upper end of the interval.
        count: Number of images.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class RiskCoverage:
    """The error rate on the most confident images, for each number of images.

    Attributes:
        coverage: Fraction of the images that are answered, ascending to 1, shape (images,).
        risk: Error rate on these images, shape (images,).
    """

    coverage: Floats
    risk: Floats

    @property
    def area(self) -> float:
        """Area under the risk-coverage curve (AURC): the mean of the risks. Lower is better."""
        return float(self.risk.mean())


def wilson_interval(correct: ArrayLike, count: ArrayLike) -> tuple[Any, Any]:
    """Return Wilson's 95% score interval for `correct` of `count` (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

    Args:
        correct: A number or an array.
        count: A number or an array, at least 1.

    Returns:
        Lower and upper ends, each of the shape of the arguments.
    """
    low, high = np.vectorize(_wilson, otypes=[float, float])(correct, count)
    return low[()], high[()]


def _wilson(correct: float, count: float) -> tuple[float, float]:
    from scipy.stats import binomtest  # takes most of a second, which `app` and `predict` do not need

    # Two one-sided intervals are the two-sided one. Their tests are cheaper, which counts with many classes.
    low, high = (binomtest(int(correct), int(count), alternative=side) for side in ("greater", "less"))
    return low.proportion_ci(0.975, "wilson").low, high.proportion_ci(0.975, "wilson").high


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """Return the accuracy of images of similar confidence, for at most `bins` bins of about equal size.

    Args:
        confidence: Shape (images,).
        correct: Whether each prediction is correct, shape (images,).
        bins: Number of bins. There are fewer if there are fewer distinct confidences.

    Returns:
        The bins that hold images, in the order of their confidence.
    """
    mean, right, count = _bins(confidence, correct, bins)
    low, high = wilson_interval(right, count)
    columns = (mean, right / count, low, high, count)
    return [ReliabilityBin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Return the debiased root mean squared calibration error of the confidences, from 0 to 1.

    With bins b of n_b of the n images, mean confidence c_b and accuracy a_b, it is the square root of
    `sum_b n_b / n * ((c_b - a_b)^2 - a_b * (1 - a_b) / (n_b - 1))`, or 0 if the sum is negative. The second term is
    the part of the first one that the finite number of images causes (Kumar, Liang and Ma 2019, arXiv:1909.10155,
    section 5). Bins are of about equal size, which has the least bias (Roelofs et al. 2022, arXiv:2012.08668); they
    are fewer if they would hold fewer than two images. As in the code of the paper, a bin of one image counts 0.

    Args:
        confidence: Shape (images,).
        correct: Whether each prediction is correct, shape (images,).
        bins: Number of bins.

    Returns:
        The error, or NaN for fewer than two images, which say nothing about calibration.
    """
    images = np.size(confidence)
    if images < 2:
        return float("nan")
    mean, right, count = _bins(confidence, correct, min(bins, images // 2))
    accuracy = right / count
    squared = (mean - accuracy) ** 2 - accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
    total = float(np.where(count > 1, squared, 0.0) @ count) / images
    return math.sqrt(max(0.0, total))


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Return the error rate on the 1, 2, ... most confident images.

    Each image counts with the mean error of the images of equal confidence: the mean over all their orders.

    Args:
        confidence: Shape (images,), at least one image.
        correct: Whether each prediction is correct, shape (images,).
    """
    group, size = _groups(confidence)
    wrong = np.bincount(group, weights=1.0 - np.asarray(correct, dtype=np.float64)) / size
    ranks = np.arange(1, len(group) + 1)
    return RiskCoverage(ranks / len(group), np.cumsum(np.repeat(wrong[::-1], size[::-1])) / ranks)


def brier_score(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the mean over the images of the squared error summed over the classes, from 0 to 2.

    Args:
        probabilities: Shape (images, classes).
        labels: True classes, shape (images,).
    """
    squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64)
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return brier_of_sums(squares, true)


def brier_of_sums(squares: Floats, true: Floats) -> float:
    """Return the Brier score from each image's sum of squared probabilities and probability of the true class."""
    return float(np.maximum(squares - 2 * true + 1, 0.0).mean())  # below 0 by rounding only


def assign_bins(values: ArrayLike, bins: int) -> NDArray[np.int64]:
    """Return the number of the bin of each value, ascending from 0: bins of about equal size, equal values together.

    Args:
        values: Shape (images,), not NaN.
        bins: Number of bins. There are fewer if there are fewer distinct values.
    """
    group, size = _groups(values)
    middle = np.cumsum(size) - size / 2  # a group goes where its middle rank belongs
    _, number = np.unique((middle * bins / max(len(group), 1)).astype(np.int64), return_inverse=True)
    return np.asarray(number[group])


def _groups(confidence: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the group of equal confidence of each image, ascending, and the sizes of the groups."""
    _, group, size = np.unique(np.asarray(confidence), return_inverse=True, return_counts=True)
    return group, size


def _bins(confidence: ArrayLike, correct: ArrayLike, bins: int) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """Return mean confidence, number of correct predictions, and number of images of each bin that is not empty."""
    image_bin = assign_bins(confidence, bins)
    count = np.bincount(image_bin)
    mean = np.bincount(image_bin, weights=np.asarray(confidence, dtype=np.float64)) / count
    return mean, np.bincount(image_bin, weights=np.asarray(correct, dtype=np.float64)), count
