"""Rules that the classes of the splits must follow."""

import itertools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from pipeline.data.labels.read import UNLABELED, Labels, read_integers
from pipeline.data.labels.spelling import count_images, find_nearest, find_variants, say_nearest, say_similar
from pipeline.data.splits import canonical_split
from pipeline.errors import list_some

logger = logging.getLogger(__name__)


def find_spelling_problems(splits: Mapping[str, Labels], *, listed: Collection[str] = ()) -> Iterator[str]:
    """Yield one error message for each group of class names that are probably variants of one name.

    Args:
        splits: The labels of all splits.
        listed: Class names that the user listed, so that their differences are intended.
    """
    train = splits["train"]
    for variants in [] if train.declared else find_variants(train.used):
        if not set(variants) <= set(listed):
            counted = count_images({name: train.counts[name] for name in variants})
            yield (
                f"train has classes that differ only in case, blanks or Unicode form: {counted}\n"
                "correct the labels, or pass --class_names FILE, which can merge them or list them all to keep them"
            )
    for split_name, unknown in _unknown_classes(splits).items():
        if nearest := find_nearest(unknown, train.used):
            near = say_nearest(nearest, owner="train")
            yield (
                f"{split_name} has {near}: use the same names in all splits, or rename them with --class_names FILE "
                "(one line per class: OLD,NEW)"
            )


def find_label_problems(splits: Mapping[str, Labels]) -> Iterator[str]:
    """Yield one error message for each problem that prevents training with these labels."""
    train = splits["train"]
    if len(train.used) == 1:
        skipped = f" and values that mean no label{train.missing_values}" if train.missing else ""
        yield f"train has only one class, {train.used[0]!r}{skipped}: add images of at least one more class"
    elif all(canonical_split(name) for name in train.used):
        yield (
            f"the class names {list_some(sorted(train.used))} are all split names: "
            "put class folders inside the split folders (train/rose/1.jpg) or pass --label_column_name"
        )
    for split_name, unknown in _unknown_classes(splits).items():
        near = find_nearest(unknown, train.used)  # `find_spelling_problems` reports them
        if new := [name for name in unknown if name not in near]:
            similar = say_similar(new, train.used)
            yield (
                f"{split_name} has classes without images in train ({list_some(new)}{similar and f'; {similar}'}): "
                f"add images of them to train, remove them from {split_name}, or pass --min_images_per_class 1 to "
                "skip them"
            )


def warn_of_missing_classes(splits: Mapping[str, Labels], *, names: Sequence[str]) -> None:
    """Log a warning for each split that has no images of some classes, because their metrics will be missing."""
    for split_name, labels in splits.items():
        used = set(labels.used)
        if missing := [name for name in names if name not in used]:
            listed = list_some(missing)
            logger.warning("%s has no images of %d of %d classes: %s", split_name, len(missing), len(names), listed)


def warn_of_repeated_images(paths: Mapping[str, Sequence[str | None]], labels: Mapping[str, Labels]) -> None:
    """Log a warning for image files that several labeled rows name: in one split, or in two.

    Args:
        paths: The path of each row by split, or None for an image without a file.
        labels: The labels by split.
    """
    columns = {
        "path": [path for split in paths for path in paths[split]],
        "label": np.concatenate([labels[split].indices for split in paths]),
        "split": np.repeat(list(paths), [len(paths[split]) for split in paths]),
    }
    rows = pd.DataFrame(columns).dropna()
    rows = rows[rows["label"] != UNLABELED]
    rows = rows[rows.duplicated("path", keep=False)]
    for split, part in rows.groupby("split", sort=False):
        files = part[part.duplicated("path", keep=False)].groupby("path", sort=False)["label"]
        if len(files):
            names = labels[str(split)].names
            different = files.unique()[files.nunique() > 1]
            listed = list_some(
                [f"{Path(path).name} ({', '.join(names[n] for n in values)})" for path, values in different.items()]
            )
            conflicts = f", {len(different)} of them with different labels: {listed}" if len(different) else ""
            logger.warning(
                "%s: %d images are listed more than once%s; using every row", *(split, len(files), conflicts)
            )
    shared = rows.groupby("path", sort=False)["split"].unique()
    for first, second in itertools.combinations(paths, 2):
        common = [path for path, splits in shared.items() if {first, second} <= set(splits)]
        if common:
            listed = list_some([Path(path).name for path in common])
            logger.warning(
                "%d images are in %s and in %s, so metrics on %s are too high: %s",
                *(len(common), first, second, second, listed),
            )


def warn_of_lost_classes(split_name: str, *, before: datasets.Dataset, after: datasets.Dataset) -> None:
    """Log a warning if no image of a class is left after unreadable images were skipped."""
    lost = np.setdiff1d(read_integers(before), read_integers(after))
    if len(lost):
        names = before.features["label"].names
        consequence = "the model cannot learn them" if split_name == "train" else "their metrics are missing"
        logger.warning(
            "%s: all images of %d of %d classes are unreadable, so %s: %s",
            *(split_name, len(lost), len(names), consequence, list_some([names[label] for label in lost])),
        )


def _unknown_classes(splits: Mapping[str, Labels]) -> dict[str, list[str]]:
    """Return the classes of each split that train does not have."""
    known = set(splits["train"].used)
    return {split: [name for name in labels.used if name not in known] for split, labels in splits.items()}
