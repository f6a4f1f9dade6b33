"""Exact and near duplicates: fingerprints find candidates, and features of the network confirm the near ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import datasets
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pipeline.evaluation.audit.fingerprints import FLAT, distances, perceptual_hash, pixel_digest
from pipeline.images.decode import open_image
from pipeline.images.depth import GrayscaleDepth
from pipeline.performance import machine

MAX_BITS = 6
"""Images whose perceptual hashes differ in at most this many of 64 bits may be near duplicates."""

MIN_COSINE = 0.99
"""They are, if the cosine of their features is at least this. Copies of photographs at 50 of 64 pixels have 0.994."""

_HASH_SIDE = 64  # smallest shorter side, in pixels, at which a JPEG is decoded for its perceptual hash
_PAIRS = 2**22  # pairs of images that are compared at once: 32 MiB of differences
_SCHEDULED = 1024  # images that wait for their fingerprints at once; each takes memory

T = TypeVar("T")
R = TypeVar("R")
Row = tuple[str, int]
"""Name of a split and the position in it."""


@dataclass(frozen=True)
class Duplicate:
    """An image that repeats an earlier one. Train is before validation, and validation before test.

    Attributes:
        row: Its split and position.
        of: Split and position of the first image that it repeats.
        exact: Whether all pixels are the same.
        similarity: Cosine of the features; 1 if the pixels are the same.
    """

    row: Row
    of: Row
    exact: bool
    similarity: float

    @property
    def leaks(self) -> bool:
        """Whether the two images are in different splits."""
        return self.row[0] != self.of[0]


@dataclass(frozen=True)
class Scan:
    """What the pixels of all images say.

    Attributes:
        exact: The images whose pixels repeat those of an earlier one.
        candidates: Different images whose perceptual hashes are close to that of another one.
        hashes: Their hashes.
    """

    exact: list[Duplicate]
    candidates: list[Row]
    hashes: NDArray[np.uint64]

    def near(self, features: NDArray[np.floating]) -> list[Duplicate]:
        """Return the candidates that features (candidates, width) confirm."""
        rows = self.candidates
        return [Duplicate(rows[one], rows[other], False, cosine) for one, other, cosine in _near(self.hashes, features)]


def scan(splits: Mapping[str, datasets.Dataset], depth: GrayscaleDepth) -> Scan:
    """Compare the pixels of all images.

    Args:
        splits: Rows with `image` and `index`, in the order train, validation, test.
        depth: How 16-bit grayscale is scaled.

    Raises:
        BadImageError: If an image cannot be read.
    """
    rows = [(name, number) for name, split in splits.items() for number in range(len(split))]
    hashes = np.array(_map(lambda row: _hash(splits, row, depth), rows), dtype=np.uint64)
    candidates = _candidates(hashes)
    digests = _map(lambda number: pixel_digest(_open(splits, rows[number], depth)), candidates)
    first: dict[str, int] = {}
    exact = []
    for number, digest in zip(candidates, digests, strict=True):
        if first.setdefault(digest, number) != number:
            exact.append(Duplicate(rows[number], rows[first[digest]], True, 1.0))
    distinct = [number for number in first.values() if hashes[number] != FLAT]
    close = [distinct[place] for place in _candidates(hashes[distinct])]
    return Scan(exact, [rows[number] for number in close], hashes[close])


def _map(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call a function on all items, in threads: most of the time is decoding, which runs in parallel."""
    results: list[R] = []
    with ThreadPoolExecutor(machine.usable_cores()) as pool:
        for part in _chunks(len(items), _SCHEDULED):
            results += pool.map(function, items[part])
    return results


def _chunks(count: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of `size` of `count` items, the last one smaller."""
    return (slice(start, start + size) for start in range(0, count, size))


def _compared(count: int) -> Iterator[slice]:
    """Yield slices of `count` images, each small enough to be compared with all of them at once."""
    return _chunks(count, max(1, _PAIRS // max(1, count)))


def _open(
    splits: Mapping[str, datasets.Dataset], row: Row, depth: GrayscaleDepth, min_side: int | None = None
) -> PIL.Image.Image:
    value = splits[row[0]][row[1]]
    return open_image(
        value["image"], name=value["image"]["path"] or f"row {value['index']}", min_side=min_side, depth=depth
    )


def _hash(splits: Mapping[str, datasets.Dataset], row: Row, depth: GrayscaleDepth) -> int:
    return perceptual_hash(_open(splits, row, depth, min_side=_HASH_SIDE))


def _candidates(hashes: NDArray[np.uint64]) -> list[int]:
    """Return the images, in order, whose hash is close to that of another image."""
    unique, group, count = np.unique(hashes, return_inverse=True, return_counts=True)
    close = count > 1
    for chunk in _compared(len(unique)):
        near = distances(unique[chunk], unique) <= MAX_BITS
        close[chunk] |= near.sum(axis=1) > 1
    return np.flatnonzero(close[group]).tolist()


def _near(hashes: NDArray[np.uint64], features: NDArray[np.floating]) -> list[tuple[int, int, float]]:
    """Return each image that is close to an earlier one in hash and features, the first such one, and the cosine."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = []
    for chunk in _compared(len(unit)):
        cosines = unit[chunk] @ unit.T
        close = (distances(hashes[chunk], hashes) <= MAX_BITS) & (cosines >= MIN_COSINE)
        close &= np.arange(len(unit)) < np.arange(chunk.start, chunk.start + len(close))[:, None]
        for one in np.flatnonzero(close.any(axis=1)):
            other = int(np.argmax(close[one]))
            found.append((chunk.start + int(one), other, float(min(cosines[one, other], 1.0))))
    return found
