"""Splits: recognize split names, hold out a validation split, and limit the number of rows.

Owns the aliases of split names and every random selection of rows. The selections depend only on the integer labels
and a seed, and stay the same when the classes are renumbered.
"""

import difflib
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError, raise_problems

logger = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]
T = TypeVar("T")

# Our split names in order, with the names that folders, files and datasets use for them.
SPLIT_ALIASES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


def canonical_split(name: str) -> str | None:
    """Return train, validation or test for any alias of it, and None for other names."""
    return next((split for split, aliases in SPLIT_ALIASES.items() if name.lower() in aliases), None)


def find_split_word(name: str) -> str | None:
    """Return the first word of a file name that is a split name: ``train`` for ``train-00000-of-00002``."""
    return next((word for word in _words(name) if canonical_split(word)), None)


def reject_misspelled_splits(names: Iterable[str], *, split_names: Collection[str], folder: Path) -> None:
    """Raise an error for names such as ``trian`` or ``test_set``.

    Without the error, such a folder would be treated as a class or ignored.

    Args:
        names: Names of files or folders that are not split names.
        split_names: The split names that were found. If there are none, at least two misspelled names are needed,
            because a single similar name, such as ``terrain``, can be a class.
        folder: The folder, for the message.

    Raises:
        PipelineError: If a name looks like a split that is missing. The message lists all such names.
    """
    present = {canonical_split(name) for name in split_names}
    suspects = {name: split for name in names if (split := _similar_split(name)) and split not in present}
    if split_names or len(suspects) > 1:
        raise_problems(
            f"{folder}: {name!r} looks like {split}: rename it to {split!r}" for name, split in suspects.items()
        )


def _similar_split(name: str) -> str | None:
    aliases = [alias for names in SPLIT_ALIASES.values() for alias in names]
    for word in _words(name.lower()):
        anagrams = [alias for alias in aliases if sorted(alias) == sorted(word)]
        if near := anagrams or difflib.get_close_matches(word, aliases, n=1, cutoff=0.8):
            return canonical_split(near[0])
    return None


def _words(name: str) -> list[str]:
    return re.split(r"[-_. ]", name)


def name_splits(found: Mapping[str, T]) -> dict[str, T]:
    """Return the splits with our split names, in the order train, validation, test.

    A single split with an unknown name becomes train.

    Raises:
        PipelineError: If two splits have aliases of the same name, or no split has a known name.
    """
    if len(found) == 1 and canonical_split(next(iter(found))) is None:
        return {"train": next(iter(found.values()))}
    splits: dict[str, T] = {}
    for split, aliases in SPLIT_ALIASES.items():
        matching = [name for name in found if name.lower() in aliases]
        if len(matching) > 1:
            raise PipelineError(
                f"several splits are named like {split} ({', '.join(matching)}): remove or rename all but one"
            )
        if matching:
            splits[split] = found[matching[0]]
    if not splits:
        raise PipelineError(f"no split is named train, validation or test, only {', '.join(found)}: rename the splits")
    if ignored := [name for name in found if canonical_split(name) is None]:
        logger.warning("ignoring splits with unknown names: %s", ", ".join(ignored))
    return splits


def hold_out_rows(labels: Integers, *, fraction: float, seed: int) -> tuple[Integers, Integers]:
    """Split rows into train and validation: stratified, with at least one row of each class in both parts.

    The validation part has ``fraction`` of all rows, or as close to it as the minimum of one row allows. The numbers
    of rows per class are rounded by the largest-remainder method. Every class must have at least two rows
    (see `classes_with_one_row`).

    Returns:
        The sorted row numbers of train and of validation.
    """
    keys = _random_keys(len(labels), seed=seed)
    counts = np.bincount(labels)
    smallest_key = np.ones(len(counts))
    np.minimum.at(smallest_key, labels, keys)
    # A class without rows has a maximum of 0.
    most = np.maximum(counts - 1, 0)
    quota = np.clip(np.floor(counts * fraction).astype(np.int64), np.minimum(1, most), most)
    # The smallest key of a class breaks ties, so the result does not depend on how the classes are numbered.
    for label in np.lexsort((smallest_key, quota - counts * fraction)):
        if quota.sum() >= round(len(labels) * fraction):
            break
        quota[label] = min(quota[label] + 1, most[label])
    in_validation = _ranks_within_class(labels, keys) < quota[labels]
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def classes_with_one_row(labels: Integers) -> Integers:
    """Return the indices of the classes with a single row, which cannot be in both train and validation."""
    return np.flatnonzero(np.bincount(labels) == 1)


def limit_rows(labels: Integers, *, limit: int, seed: int) -> Integers:
    """Return at most ``limit`` sorted row numbers, sampled at random and balanced across classes.

    Rows are taken from all classes in rounds, one row per class and round, until there are enough.
    """
    keys = _random_keys(len(labels), seed=seed)
    return np.sort(np.lexsort((keys, _ranks_within_class(labels, keys)))[:limit])


def _random_keys(num_rows: int, *, seed: int) -> npt.NDArray[np.float64]:
    """Return one random number per row. Rows with smaller numbers are selected first."""
    return np.random.default_rng(seed).random(num_rows)


def _ranks_within_class(labels: Integers, keys: npt.NDArray[np.float64]) -> Integers:
    """Return the rank of each row among the rows of its class, sorted by key."""
    order = np.lexsort((keys, labels))
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    lengths = np.diff(starts, append=len(labels))
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, lengths)
    return ranks
