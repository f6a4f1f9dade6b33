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
    """Validation accuracy of probes fitted on ever more images, the smaller sets within the larger ones.

    Every second C of the grid is tried for each.

    Args:
        probe: The one fitted on all the images: the last point.
        train_x: Features (images, width).
        train_y: Labels (images,).
        valid_x: Features (images, width).
        valid_y: Labels (images,).
        seed: Of the choice of images.
        counts: Images of each class, ascending; of a class that has fewer, all.

    Returns:
        `images_per_class` (at most so many of each), `images`, `accuracy`.
    """
    order = np.random.default_rng(seed).permutation(len(train_y))
    place = np.empty(len(train_y), dtype=np.int64)  # of each image among those of its class
    for label in np.unique(train_y):
        rows = order[train_y[order] == label]
        place[rows] = np.arange(len(rows))
    largest = int(place.max()) + 1
    curve = []
    for count in (count for count in counts if count < largest):
        chosen = place < count
        part = fit_probe(train_x[chosen], train_y[chosen], valid_x, valid_y, len(probe.bias), GRID[::2])
        curve.append(_point(count, int(chosen.sum()), part))
    return [*curve, _point(largest, len(train_y), probe)]


def _point(count: int, images: int, probe: LinearProbe) -> dict[str, float]:
    return {"images_per_class": count, "images": images, "accuracy": probe.chosen["accuracy"]}
