"""Conformal prediction sets: sets of classes that contain the true class for a stated fraction of the images.

If new images are like the validation images (exchangeable), a set contains the true class with a probability of at
least the coverage, whatever the network is (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv:2107.07511). The
probabilities were calibrated on the same images with one number, whose influence is not part of this guarantee.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.outcomes import CHUNK
from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.models.uncertainty import Uncertainty, aps_scores


def conformal_quantile(scores: NDArray[np.floating], coverage: float) -> float:
    """Return the threshold that a new score exceeds with a probability of at most 1 - coverage.

    It is the k-th smallest score, k = ceil((n + 1) * coverage), which exists for n >= coverage / (1 - coverage).

    Args:
        scores: Shape (images,), not NaN.
        coverage: From 0 to 1.

    Raises:
        NotFitted: If there are too few images.
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 1e-9: rounding of the product
    if rank > len(scores):
        needed = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise NotFitted(f"it needs at least {needed} validation images, not {len(scores)}")
    return float(np.partition(scores, max(rank, 1) - 1)[max(rank, 1) - 1])


def true_scores(
    uncertainty: Uncertainty, logits: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the LAC and the APS score of the true class of each image, each with shape (images,)."""
    parts = []
    for rows, probabilities in chunks(uncertainty, logits):
        true = np.arange(len(probabilities)), labels[rows]
        parts.append((1 - probabilities[true], aps_scores(probabilities)[true]))
    lac, aps = (np.concatenate(column) for column in zip(*parts, strict=True))
    return lac, aps


def chunks(uncertainty: Uncertainty, logits: NDArray[np.floating]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the rows of each chunk of the images, and their calibrated probabilities."""
    step = max(1, CHUNK // logits.shape[1])
    for start in range(0, len(logits), step):
        rows = slice(start, min(start + step, len(logits)))
        yield rows, uncertainty.probabilities(logits[rows])
