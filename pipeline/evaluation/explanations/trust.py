"""Deletion and insertion: does removing what a map marks change the probability more than removing a random part?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

FRACTIONS = (0, 1 / 16, 1 / 4, 1 / 2, 3 / 4, 15 / 16, 1)
"""Of the cells, that are removed or added at each point of a curve. They are symmetric, see `measure_trust`."""

_SEED = 0

Orders = NDArray[np.int64]


@dataclass(frozen=True)
class Trust:
    """The areas under the curves of the probability of a class, from 0 to 1, and those of random maps.

    Attributes:
        deletion: Cells are removed, the most relevant first. Lower is better.
        insertion: Cells are added to an empty image, the most relevant first. Higher is better.
        random_deletion: Mean over random maps.
        random_insertion: Mean over random maps.
        trusted: Whether insertion minus deletion is above 0, and not lower than for any random map or its reverse.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float
    trusted: bool


def measure_trust(
    classify: Callable[[Tensor], Tensor],
    pixels: Tensor,
    maps: Sequence[NDArray[np.float32]],
    classes: Sequence[int],
    *,
    random_maps: int,
) -> list[Trust]:
    """Compare the maps of one image with random maps on the same image.

    A removed cell has the mean color of the image processor, which is 0 after normalization. A random order and its
    reverse use the same images, so each random map counts twice. The random orders are the same in every call.

    Args:
        classify: Pixel values -> probabilities (images, classes), in batches as it likes.
        pixels: Normalized pixels of the image (3, height, width).
        maps: Relevance maps (rows, columns).
        classes: The class of each map.
        random_maps: Number of random maps, at least 1.

    Returns:
        One value for each map.
    """
    rng = np.random.default_rng(_SEED)
    cells = maps[0].size
    counts = np.unique(np.round(np.multiply(FRACTIONS, cells)).astype(int))
    randoms = [rng.permutation(cells) for _ in range(random_maps)]
    ties = rng.permutation(cells)  # cells with equal relevance are removed in random order
    orders = np.stack([np.lexsort((ties, -each.ravel())) for each in maps] + randoms)
    deletions, insertions = _areas(classify, pixels, orders, counts, maps[0].shape)
    found = []
    for place, number in enumerate(classes):
        deletion, insertion = deletions[:, number], insertions[:, number]
        gain = insertion - deletion
        found.append(
            Trust(
                float(deletion[place]),
                float(insertion[place]),
                float(deletion[len(maps) :].mean()),
                float(insertion[len(maps) :].mean()),
                trusted=bool(gain[place] > 0 and gain[place] >= np.abs(gain[len(maps) :]).max() - 1e-9),
            )
        )
    return found


def _areas(
    classify: Callable[[Tensor], Tensor], pixels: Tensor, orders: Orders, counts: Orders, grid: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the areas under the deletion and the insertion curves, each (orders, classes)."""
    ranks = np.empty_like(orders)
    np.put_along_axis(ranks, orders, np.arange(orders.shape[1])[None], axis=1)
    inner = counts[1:-1]
    removed = ranks[:, None] < inner[:, None]  # (orders, inner points, cells)
    keep = torch.from_numpy(np.stack([~removed, removed])).flatten(0, 2).view(-1, 1, *grid)
    ends = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, *grid)
    masks = torch.cat([ends, keep.float()])
    probabilities = classify_masked(classify, pixels, masks)
    full, empty = probabilities[:2]
    curves = probabilities[2:].reshape(2, len(orders), len(inner), full.shape[-1])
    ends_of = [(full, empty), (empty, full)]
    areas = []
    for curve, (start, stop) in zip(curves, ends_of, strict=True):
        shape = (len(orders), 1, curve.shape[-1])
        points = np.concatenate([np.broadcast_to(start, shape), curve, np.broadcast_to(stop, shape)], axis=1)
        areas.append(np.trapezoid(points, counts / counts[-1], axis=1))
    return areas[0], areas[1]


def classify_masked(
    classify: Callable[[Tensor], Tensor], pixels: Tensor, masks: Tensor, *, batch_size: int = 32
) -> NDArray[np.float64]:
    """Return the probabilities (masks, classes) of an image from which cells are removed.

    Args:
        classify: Pixel values -> probabilities.
        pixels: (3, height, width).
        masks: (masks, 1, rows, columns): 1 keeps a cell, 0 removes it.
        batch_size: Images per forward pass.
    """
    found = []
    for part in masks.split(batch_size):
        large = interpolate(part.to(pixels.device), size=pixels.shape[-2:], mode="nearest")
        found.append(classify(pixels * large).double().cpu().numpy())
    return np.concatenate(found)
