"""Labels of any kind -> integers over class names, and what is wrong with them.

Owns how class names come from a column, their order, and the rules that classes must keep between splits.
It does not choose the column (`columns`) or rows (`splits`).
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from pipeline.data.splits import Integers, split_of
from pipeline.errors import PipelineError, list_some

logger = logging.getLogger(__name__)

UNLABELLED = -1
_LABEL_TYPES = re.compile(r"(large_)?string|u?int\d+|float\d+|bool|null")
_NO_LABEL = ("", "-1")  # how tables of text and of numbers write it, where it is not null


@dataclass(frozen=True)
class Labels:
    """One label a row: a place in ``names``, or `UNLABELLED`."""

    codes: Integers
    names: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """The names that some row has."""
        return tuple(self.names[code] for code in np.unique(self.codes) if code != UNLABELLED)

    @property
    def num_unlabelled(self) -> int:
        """How many rows have no label."""
        return int(np.count_nonzero(self.codes == UNLABELLED))

    def aligned_to(self, names: Sequence[str]) -> Integers:
        """Return the codes as places in other names, which hold every used one."""
        place = {name: code for code, name in enumerate(names)}
        # The last entry is where UNLABELLED, which is -1, looks.
        lookup = np.array([place.get(name, UNLABELLED) for name in self.names] + [UNLABELLED])
        return lookup[self.codes]


def read_integers(split: datasets.Dataset, column: str = "label") -> Integers:
    """Return a column of integers, a thousand rows at a time: of a selection, `datasets` takes a table for each row."""
    rows = split.with_format("numpy").select_columns(column)
    parts = [np.asarray(batch[column], dtype=np.int64) for batch in rows.iter(batch_size=1000)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def read_labels(split: datasets.Dataset, *, column: str) -> Labels:
    """Return the labels of a split, all of them `UNLABELLED` where it has no such column.

    The names of a `ClassLabel` keep their order; those that text and numbers spell are sorted.

    Raises:
        PipelineError: If the column holds something else, or numbers beyond its names.
    """
    if column not in split.features:
        return Labels(np.full(len(split), UNLABELLED), ())
    values = split.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    feature = split.features[column]
    if isinstance(feature, datasets.ClassLabel):
        codes = values.fill_null(UNLABELLED).to_numpy(zero_copy_only=False).astype(np.int64)
        if len(codes) and (codes.min() < UNLABELLED or codes.max() >= len(feature.names)):
            raise PipelineError(f"Column {column}: label {codes.max()} is beyond its {len(feature.names)} names.")
        return Labels(codes, tuple(feature.names))
    encoded = _as_text(values, feature, column=column).dictionary_encode()
    codes = encoded.indices.fill_null(UNLABELLED).to_numpy(zero_copy_only=False)
    return _sorted(codes, encoded.dictionary.to_pylist())


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted: numbers by their value (2 before 10), before all others, by their letters."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def find_label_problems(splits: Mapping[str, Labels]) -> list[str]:
    """Return what keeps labels from being trained on and scored: one text a problem."""
    known = set(splits["train"].used)
    problems = []
    if len(known) == 1:
        problems.append(f"train has one class only, {min(known)!r}: telling classes apart needs at least two.")
    elif all(split_of(name) for name in known):
        problems.append(
            f"The only classes are {list_some(sorted(known))}, which are names of splits. Put class folders "
            "below them, as in train/rose/1.jpg, or name the right column by --label_column_name."
        )
    for split_name, labels in splits.items():
        if unknown := [name for name in labels.used if name not in known]:
            problems.append(
                f"{split_name} has classes that train has no image of: {list_some(unknown)}. "
                "Add images of them to train, or remove them."
            )
    return problems


def warn_of_missing_classes(splits: Mapping[str, Labels], *, names: Sequence[str]) -> None:
    """Log which classes a split has no image of: their figures will be missing."""
    for split_name, labels in splits.items():
        used = set(labels.used)
        if missing := [name for name in names if name not in used]:
            some, count = list_some(missing), len(missing)
            logger.warning("%s has no image of %d of %d classes: %s", split_name, count, len(names), some)


def _as_text(values: pa.Array, feature: Any, *, column: str) -> pa.Array:
    if not (isinstance(feature, datasets.Value) and _LABEL_TYPES.fullmatch(feature.dtype)):
        raise PipelineError(f"Column {column} holds {feature}: one label an image is needed, text or number.")
    if feature.dtype.startswith("float"):  # what pandas makes of whole numbers when one is missing
        try:
            values = values.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise PipelineError(f"Column {column} holds numbers that are no labels: {error}.") from error
    return values.cast(pa.string())


def _sorted(codes: Integers, spelled: Sequence[str]) -> Labels:
    names = natural_order(name for name in spelled if name not in _NO_LABEL)
    return Labels(Labels(codes.astype(np.int64), tuple(spelled)).aligned_to(names), tuple(names))
