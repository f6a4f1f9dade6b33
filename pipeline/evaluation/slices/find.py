"""Which slices of a split the model is worse on: Fisher's exact test against the other images, corrected by Holm."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from pipeline.evaluation.confidence import assign_bins, wilson_interval
from pipeline.evaluation.predictions import Predictions

SIGNIFICANCE = 0.05
"""Probability that any slice is called worse if the model is equally accurate on all of them."""
MIN_IMAGES = 10  # of a slice, and of the images outside it: fewer cannot show a difference
MAX_FOLDERS = 50  # the folders with the most images
_BINS = 4  # of the sizes and of the brightness, with about equal numbers of images
_SHAPES = {  # upper limit of width / height -> name
    0.5: "very tall (less than 1:2)",
    0.9: "portrait (1:2 to 9:10)",
    1.1: "about square",
    2.0: "landscape (11:10 to 2:1)",
    float("inf"): "very wide (more than 2:1)",
}

Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Slice:
    """A slice and the accuracy on it.

    Attributes:
        kind: The property, such as `shorter side`.
        name: Its values, such as `64 to 120 px`.
        images: Number of images.
        accuracy: Accuracy on the slice.
        accuracy_low: Lower end of Wilson's 95% interval of the accuracy.
        accuracy_high: Upper end of the interval.
        others_accuracy: Accuracy on the other images of the split.
        p_value: One-sided p-value of Fisher's exact test: how probable so few correct predictions in the slice are if
            the model is equally accurate outside it. It is corrected for the number of slices that were tried (Holm).
        is_worse: Whether the model is significantly worse on the slice.
    """

    kind: str
    name: str
    images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    others_accuracy: float
    p_value: float
    is_worse: bool


def find_slices(predictions: Predictions) -> list[Slice]:
    """Return all slices that were tried.

    Slices have one file type or one folder, similar sizes or brightness (four of about equal size), or one of five
    aspect ratios. Each slice, and the rest of the split, has at least `MIN_IMAGES` images. A folder of images of one
    class is not a slice, because the class is shown elsewhere.
    """
    correct = predictions.logits.argmax(axis=1) == predictions.labels
    fitting = [
        (kind, name, rows)
        for kind, name, rows in _candidates(predictions)
        if MIN_IMAGES <= np.sum(rows) <= len(rows) - MIN_IMAGES
    ]
    found = []
    corrected = holm([_p_value(correct, rows) for _, _, rows in fitting])
    for (kind, name, rows), p_value in zip(fitting, corrected, strict=True):
        right, images = int(correct[rows].sum()), int(np.sum(rows))
        low, high = wilson_interval(right, images)
        others = float(correct[~rows].mean())
        numbers = (right / images, float(low), float(high), others, float(p_value))
        found.append(Slice(kind, name, images, *numbers, is_worse=bool(p_value < SIGNIFICANCE)))
    return found


def holm(p_values: list[float]) -> NDArray[np.float64]:
    """Return p-values that are corrected for their number (Holm 1979, Scand. J. Stat. 6, 65-70)."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values)[order]), 1.0)
    return corrected


def _p_value(correct: Rows, rows: Rows) -> float:
    """Return the probability of at most as many correct images in a random sample of the size of the slice."""
    return float(hypergeom.cdf(correct[rows].sum(), len(correct), correct.sum(), np.sum(rows)))


def _candidates(predictions: Predictions) -> Iterator[tuple[str, str, Rows]]:
    """Yield kind, name and rows of each slice."""
    properties = predictions.properties
    if properties is not None:
        for name in np.unique(properties.format):
            yield "file type", str(name), properties.format == name
        shorter = np.minimum(properties.width, properties.height).astype(np.float64)
        yield from _quarters("shorter side", "{} px", "{:.0f}", shorter)
        ratio = properties.width / properties.height
        shape = np.searchsorted(list(_SHAPES), ratio)
        for number, name in enumerate(_SHAPES.values()):
            yield "aspect ratio", name, shape == number
        yield from _quarters("brightness", "{}", "{:.0%}", properties.brightness)
    yield from _folders(predictions)


def _quarters(kind: str, name: str, write: str, values: NDArray[np.floating]) -> Iterator[tuple[str, str, Rows]]:
    number = assign_bins(values, _BINS)
    for each in np.unique(number):
        rows = number == each
        low, high = write.format(np.min(values[rows])), write.format(np.max(values[rows]))
        yield kind, name.format(low if low == high else f"{low} to {high}"), rows


def _folders(predictions: Predictions) -> Iterator[tuple[str, str, Rows]]:
    """Yield the largest folders that hold images of several classes. A folder with only one subfolder counts once."""
    members: dict[PurePosixPath, list[int]] = {}
    for row, name in enumerate(predictions.ids):
        for folder in PurePosixPath(name).parents:
            members.setdefault(folder, []).append(row)
    mixed = {
        folder: rows
        for folder, rows in members.items()
        if len(rows) >= MIN_IMAGES and len(np.unique(predictions.labels[rows])) > 1
    }
    separate = [each for each in mixed if each.name and len(mixed[each]) != len(mixed.get(each.parent, ()))]
    for folder in sorted(separate, key=lambda each: -len(mixed[each]))[:MAX_FOLDERS]:
        rows = np.zeros(len(predictions.ids), dtype=np.bool_)
        rows[mixed[folder]] = True
        yield "folder", str(folder), rows
