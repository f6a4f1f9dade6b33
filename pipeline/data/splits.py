"""Which split is which, and which rows go where: names, the cut of a validation split, balanced limits.

Owns the aliases of split names and every random choice of rows. It knows neither images nor class names:
all is decided from integer labels and a seed, whatever the numbering of the classes.
"""

import difflib
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError, refuse

logger = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]
T = TypeVar("T")

# The program's split names in their order, and what folders, files and data sets call them.
SPLIT_ALIASES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


def split_of(name: str) -> str | None:
    """Return which of the program's splits a name means, if any."""
    return next((split for split, aliases in SPLIT_ALIASES.items() if name.lower() in aliases), None)


def split_within(name: str) -> str | None:
    """Return the word of a name that means a split: ``train`` of ``train-00000-of-00002``."""
    return next((word for word in _words(name) if split_of(word)), None)


def reject_misspelled(names: Iterable[str], *, taken: Collection[str], where: Path) -> None:
    """Refuse ``trian`` or ``test_set`` beside splits: it would be trained on as a class, or left out.

    Args:
        names: What could be a split and is not called so.
        taken: The names that are splits. Without any, two suspects are needed: one, as ``terrain``, is a class.
        where: The folder, for the message.

    Raises:
        PipelineError: Naming each, and which split it seems to be. What is already there is not looked for.
    """
    there = {split_of(name) for name in taken}
    suspects = {name: meant for name in names if (meant := _split_nearly(name)) and meant not in there}
    if taken or len(suspects) > 1:
        refuse(f"{where}: {name!r} looks like {meant}; call it so." for name, meant in suspects.items())


def _split_nearly(name: str) -> str | None:
    aliases = [alias for names in SPLIT_ALIASES.values() for alias in names]
    for word in _words(name.lower()):
        swapped = [alias for alias in aliases if sorted(alias) == sorted(word)]
        if near := swapped or difflib.get_close_matches(word, aliases, n=1, cutoff=0.8):
            return split_of(near[0])
    return None


def _words(name: str) -> list[str]:
    return re.split(r"[-_. ]", name)


def name_splits(found: Mapping[str, T]) -> dict[str, T]:
    """Return the splits under the program's names, in its order; a single one of any other name is train.

    Raises:
        PipelineError: If two splits mean the same, or none has a known name.
    """
    if len(found) == 1 and split_of(next(iter(found))) is None:
        return {"train": next(iter(found.values()))}
    named: dict[str, T] = {}
    for split, aliases in SPLIT_ALIASES.items():
        meant = [name for name in found if name.lower() in aliases]
        if len(meant) > 1:
            raise PipelineError(f"Several splits mean {split}: {', '.join(meant)}. Leave one of them.")
        if meant:
            named[split] = found[meant[0]]
    if not named:
        raise PipelineError(f"No split is called train, validation or test; there are: {', '.join(found)}.")
    if ignored := [name for name in found if split_of(name) is None]:
        logger.warning("splits left out, their names are not known here: %s", ", ".join(ignored))
    return named


def hold_out_rows(labels: Integers, *, fraction: float, seed: int) -> tuple[Integers, Integers]:
    """Return the rows of train and of validation: stratified, at least one of each class in either part.

    The size is the fraction of all rows, as near as those minimums let it; the shares of the classes are
    rounded by largest remainder. Every class must have two rows (`classes_of_one`).
    """
    keys = _keys(len(labels), seed=seed)
    counts = np.bincount(labels)
    smallest_key = np.ones(len(counts))
    np.minimum.at(smallest_key, labels, keys)
    # A class that has no rows keeps none: its maximum is 0.
    most = np.maximum(counts - 1, 0)
    quota = np.clip(np.floor(counts * fraction).astype(np.int64), np.minimum(1, most), most)
    # Ties go by the smallest key of a class, so that the numbering of the classes decides nothing.
    for label in np.lexsort((smallest_key, quota - counts * fraction)):
        if quota.sum() >= round(len(labels) * fraction):
            break
        quota[label] = min(quota[label] + 1, most[label])
    in_validation = _ranks(labels, keys) < quota[labels]
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def classes_with_one_row(labels: Integers) -> Integers:
    """Return the classes with a single row, which no cut can put in both parts."""
    return np.flatnonzero(np.bincount(labels) == 1)


def limit_rows(labels: Integers, *, limit: int, seed: int) -> Integers:
    """Return at most ``limit`` rows in their order: one of each class in turn until there are enough."""
    keys = _keys(len(labels), seed=seed)
    return np.sort(np.lexsort((keys, _ranks(labels, keys)))[:limit])


def _keys(num_rows: int, *, seed: int) -> npt.NDArray[np.float64]:
    """Return one random number a row: rows are chosen in the order of these."""
    return np.random.default_rng(seed).random(num_rows)


def _ranks(labels: Integers, keys: npt.NDArray[np.float64]) -> Integers:
    """Return each row's place among the rows of its class, in the order of their keys."""
    order = np.lexsort((keys, labels))
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    lengths = np.diff(starts, append=len(labels))
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, lengths)
    return ranks
