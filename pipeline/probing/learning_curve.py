"""Learning curve: validation accuracy of linear probes fitted on more and more labels."""

from collections.abc import Sequence

import numpy as np

from pipeline.probing.features import Array
from pipeline.probing.linear import GRID, Labels, LinearProbe, fit_probe

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def learning_curve(
    probe: LinearProbe,
    train_x: Array,
    train_y: Labels,
    valid_x: Array,
    valid_y: Labels,
    *,
    seed: int,
    counts: Sequence[int] = COUNTS,
) -> list[dict[str, float]]:
    """Return the validation accuracy of linear probes fitted on nested subsets of increasing size.

    Every second C of the grid is tried for each subset.

    Args:
        probe: The probe fitted on all images, which is the last point.
        train_x: Features (images, width).
        train_y: Labels (images,).
        valid_x: Features (images, width).
        valid_y: Labels (images,).
        seed: Random seed of the subsets.
        counts: Images per class, ascending; a class with fewer images contributes all of them.

    Returns:
        One row for each subset: `images_per_class` (at most), `images`, `accuracy`.
    """
    order = np.random.default_rng(seed).permutation(len(train_y))
    place = np.empty(len(train_y), dtype=np.int64)  # position of each image within its class
    for label in np.unique(train_y):
        rows = order[train_y[order] == label]
        place[rows] = np.arange(len(rows))
    largest = int(np.max(place)) + 1
    curve = []
    for count in (count for count in counts if count < largest):
        chosen = place < count
        smaller = fit_probe(train_x[chosen], train_y[chosen], valid_x, valid_y, len(probe.bias), GRID[::2])
        curve.append(_point(count, int(chosen.sum()), smaller))
    return [*curve, _point(largest, len(train_y), probe)]


def _point(count: int, images: int, probe: LinearProbe) -> dict[str, float]:
    return {"images_per_class": count, "images": images, "accuracy": probe.chosen["accuracy"]}
