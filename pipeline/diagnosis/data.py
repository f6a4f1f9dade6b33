"""Findings about the images: counts, classes, sizes and modes."""

from collections.abc import Iterator, Sequence

import datasets
import numpy as np

from pipeline.data.labels.read import read_integers
from pipeline.data.report import LoadedSplits
from pipeline.data.streaming import Stream
from pipeline.diagnosis.finding import Finding
from pipeline.errors import list_some
from pipeline.evaluation.audit.duplicates import scan
from pipeline.images.decode import image_size
from pipeline.images.depth import GrayscaleDepth

SUBJECT = "data"

_MIN_PER_CLASS = 5  # training images; with fewer, results differ much from seed to seed
_MAX_IMBALANCE = 10  # largest over smallest class
_MIN_VALIDATION = 50  # images; with fewer, the standard error of an accuracy is 5 points or more
_SAMPLES = 256  # images of each split whose size is read


def data(splits: LoadedSplits, *, balanced: bool) -> Iterator[Finding]:
    """Yield the findings about loaded splits. Loading has read every image once, except those of a stream.

    Args:
        splits: The splits of the training.
        balanced: Whether the settings balance the classes.
    """
    names = splits["train"].features["label"].names
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    read = "they are streamed, so they were not read" if isinstance(splits["train"], Stream) else "all can be read"
    yield Finding("ok", SUBJECT, f"{sizes} images of {len(names)} classes; {read}")
    for note in splits.report.notes:
        yield Finding("note", SUBJECT, note)
    if "test" not in splits:
        yield Finding(
            "note", SUBJECT, "no test split; the accuracy on validation, which chooses the checkpoint, is optimistic"
        )
    if len(splits["validation"]) < _MIN_VALIDATION:
        yield Finding(
            "warning", SUBJECT, f"{len(splits['validation'])} validation images cannot tell checkpoints apart",
            "add images, or raise --validation_fraction",
        )  # fmt: skip
    if not isinstance(splits["train"], Stream):
        yield from classes(np.bincount(read_integers(splits["train"]), minlength=len(names)), names, balanced=balanced)
        yield from _sizes(splits)


def classes(counts: Sequence[int] | np.ndarray, names: Sequence[str], *, balanced: bool) -> Iterator[Finding]:
    """Yield the findings about the number of training images of each class."""
    smallest, largest = int(np.min(counts)), int(np.max(counts))
    text = (
        f"{smallest:,} to {largest:,} training images in a class"
        if smallest < largest
        else f"{smallest:,} training images in each class"
    )
    few = [name for name, count in zip(names, counts, strict=True) if count < _MIN_PER_CLASS]
    if few:
        yield Finding(
            "warning", SUBJECT, f"{text}; fewer than {_MIN_PER_CLASS} in {len(few)}: {list_some(few)}",
            "add images, or drop these classes with --min_images_per_class",
        )  # fmt: skip
    elif largest > _MAX_IMBALANCE * smallest and not balanced:
        rare = names[int(np.argmin(counts))]
        yield Finding(
            "warning", SUBJECT, f"{text}; {rare!r} has the fewest, so its accuracy may be low",
            "consider --balanced_sampling True, and read the mean accuracy per class",
        )  # fmt: skip
    else:
        yield Finding("ok", SUBJECT, text)


def repeats(splits: LoadedSplits, depth: GrayscaleDepth) -> Iterator[Finding]:
    """Yield the findings about images that occur more than once. Every image is decoded.

    Args:
        splits: The splits of the training. Nothing is found in a stream.
        depth: How 16-bit grayscale is scaled.
    """
    if isinstance(splits["train"], Stream):
        return
    found = scan(splits, depth)
    for name in ("validation", "test"):
        if leaked := [each for each in found.exact if each.row[0] == name and each.leaks]:
            first = leaked[0]
            yield Finding(
                "warning", SUBJECT,
                f"images of {name} with the pixels of an image in an earlier split: {len(leaked):,} (row "
                f"{first.row[1]} is row {first.of[1]} of {first.of[0]}); the accuracy would be too high",
                "remove them from one of the splits; issues.csv of a run lists them",
            )  # fmt: skip
    if within := sum(not each.leaks for each in found.exact):
        yield Finding("note", SUBJECT, f"images with the pixels of another image of their split: {within:,}")
    if found.candidates:
        text = f"images that look like another one: {len(found.candidates):,}; train compares their features (--audit)"
        yield Finding("note", SUBJECT, text)


def _sizes(splits: LoadedSplits) -> Iterator[Finding]:
    for name, split in splits.items():
        if not isinstance(split, datasets.Dataset):
            continue
        rows = np.linspace(0, len(split) - 1, min(_SAMPLES, len(split))).astype(int)
        shorter = [min(image_size(split[int(row)]["image"])) for row in rows]
        sides = f"{min(shorter)} px" if min(shorter) == max(shorter) else (
            f"{min(shorter)} to {max(shorter)} px, median {np.median(shorter):.0f}"
        )  # fmt: skip
        yield Finding("ok", SUBJECT, f"{name}: shorter side of {len(rows)} images {sides}")
