"""Slices: groups of images, such as small or dark ones, and whether the model is significantly worse on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control, hypergeom

from pipeline.evaluation.confidence import assign_bins, wilson_interval

NUM_BINS = 4
"""Number of slices of a number, such as the width: its quarters."""
MIN_SAMPLES = 10
"""A slice needs so many images. Smaller ones could not be significant, but would weaken the tests of the others."""
FALSE_DISCOVERY_RATE = 0.05


@dataclass(frozen=True)
class Slice:
    """A group of images and the accuracy on it.

    Attributes:
        attribute: What the images have in common, such as `width`.
        value: Its value or range, such as `32 to 64` or `.jpg`.
        samples: Number of images.
        accuracy: Fraction of correct predictions.
        low: Lower end of Wilson's 95% interval of the accuracy.
        high: Upper end of the interval.
        rest_accuracy: Accuracy on all other images.
        p_value: P-value of Fisher's exact test that the accuracy is lower than on the other images, adjusted for the
            number of slices (Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57, 289-300).
    """

    attribute: str
    value: str
    samples: int
    accuracy: float
    low: float
    high: float
    rest_accuracy: float
    p_value: float

    @property
    def worse(self) -> bool:
        """Whether the model is significantly worse here: at most 5% of the slices found are expected to be chance."""
        return self.p_value <= FALSE_DISCOVERY_RATE


def score_slices(attributes: Mapping[str, ArrayLike], correct: ArrayLike) -> list[Slice]:
    """Return every slice that was tried, those with the lowest p-value first.

    A number is cut into quarters of about equally many images; equal numbers share a slice. Of any other attribute,
    each value is a slice. Slices of fewer than `MIN_SAMPLES` images, or of all images, are not tried.

    Args:
        attributes: Name -> value for each image, shape (images,): numbers (NaN if unknown), or text.
        correct: Whether each prediction is correct, shape (images,).
    """
    right = np.asarray(correct, dtype=bool)
    found: list[tuple[str, str, int, int]] = []
    for attribute, values in attributes.items():
        names, number = _cut(np.asarray(values))
        inside = number >= 0
        counts = np.bincount(number[inside], minlength=len(names))
        hits = np.bincount(number[inside & right], minlength=len(names))
        tried = np.flatnonzero((counts >= MIN_SAMPLES) & (counts < len(right)))
        found += [(attribute, names[i], int(counts[i]), int(hits[i])) for i in tried]
    if not found:
        return []
    return sorted(_test(found, len(right), int(right.sum())), key=lambda row: row.p_value)


def _test(found: Sequence[tuple[str, str, int, int]], images: int, correct: int) -> list[Slice]:
    """Return slices with their p-values: attribute, value, number of images and of correct predictions of each."""
    attributes, values, *counts = zip(*found, strict=True)
    samples, hits = np.array(counts)
    low, high = wilson_interval(hits, samples)
    # Fisher's test: so few of the correct predictions, or fewer, if the slice were a random sample of the images.
    p_values = false_discovery_control(np.minimum(hypergeom.cdf(hits, images, correct, samples), 1))
    columns = (samples, hits / samples, low, high, (correct - hits) / (images - samples), p_values)
    return [Slice(*row) for row in zip(attributes, values, *(column.tolist() for column in columns), strict=True)]


def _cut(values: NDArray[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the slices of an attribute, and the number of the slice of each image, or -1."""
    if values.dtype.kind not in "iuf":
        names, number = np.unique(values, return_inverse=True)
        return [str(name) for name in names], number
    number, known = np.full(len(values), -1), ~np.isnan(values)
    number[known] = assign_bins(values[known], NUM_BINS)
    ranges = [values[number == i] for i in range(number.max(initial=-1) + 1)]
    ends = [dict.fromkeys((inside.min(), inside.max())) for inside in ranges]
    return [" to ".join(f"{end:g}" for end in both) for both in ends], number
