"""Labels: convert a label column of any type to class indices, and check the labels.

Owns how class names are derived from a column, their order, and the rules that the classes of different splits must
follow. `columns` finds the label column, and `splits` selects rows.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from pipeline.data.splits import Integers, canonical_split
from pipeline.errors import PipelineError, list_some

logger = logging.getLogger(__name__)

UNLABELED = -1
_LABEL_TYPES = re.compile(r"(large_)?string|u?int\d+|float\d+|bool|null")
_NO_LABEL = ("", "-1")  # how text and number columns mark a row without a label, other than null


@dataclass(frozen=True)
class Labels:
    """The labels of a split.

    Attributes:
        indices: One class index per row (an index into ``names``), or `UNLABELED`.
        names: The class names.
    """

    indices: Integers
    names: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """The class names that occur in at least one row."""
        return tuple(self.names[index] for index in np.unique(self.indices) if index != UNLABELED)

    @property
    def num_unlabeled(self) -> int:
        """The number of rows without a label."""
        return int(np.count_nonzero(self.indices == UNLABELED))

    def aligned_to(self, names: Sequence[str]) -> Integers:
        """Return the class indices relative to other class names, which must include every used name."""
        index_of = {name: index for index, name in enumerate(names)}
        # UNLABELED is -1, so it selects the last entry of the lookup table.
        lookup = np.array([index_of.get(name, UNLABELED) for name in self.names] + [UNLABELED])
        return lookup[self.indices]


def read_integers(split: datasets.Dataset, column: str = "label") -> Integers:
    """Return an integer column as an array.

    The column is read 1,000 rows at a time, because after `select` the `datasets` library builds one table per row.
    """
    rows = split.with_format("numpy").select_columns(column)
    parts = [np.asarray(batch[column], dtype=np.int64) for batch in rows.iter(batch_size=1000)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def read_labels(split: datasets.Dataset, *, column: str) -> Labels:
    """Return the labels of a split. All rows are `UNLABELED` if the column is missing.

    The names of a `ClassLabel` keep their order. Names from a text or number column are sorted.

    Raises:
        PipelineError: If the column does not contain labels, or a class index has no name.
    """
    if column not in split.features:
        return Labels(np.full(len(split), UNLABELED), ())
    values = split.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    feature = split.features[column]
    if isinstance(feature, datasets.ClassLabel):
        indices = values.fill_null(UNLABELED).to_numpy(zero_copy_only=False).astype(np.int64)
        invalid = indices[(indices < UNLABELED) | (indices >= len(feature.names))]
        if len(invalid):
            raise PipelineError(
                f"column {column} contains the class index {invalid[0]}, but it has only {len(feature.names)} class "
                "names: correct the labels or the class names"
            )
        return Labels(indices, tuple(feature.names))
    encoded = _to_text(values, feature, column=column).dictionary_encode()
    indices = encoded.indices.fill_null(UNLABELED).to_numpy(zero_copy_only=False)
    return _sort_class_names(indices.astype(np.int64), encoded.dictionary.to_pylist())


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted: first numbers by value (2 before 10), then all other names alphabetically."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def find_label_problems(splits: Mapping[str, Labels]) -> list[str]:
    """Return one error message for each problem that prevents training or evaluation with these labels."""
    train_classes = set(splits["train"].used)
    problems = []
    if len(train_classes) == 1:
        problems.append(f"train has only one class, {min(train_classes)!r}: add images of at least one more class")
    elif all(canonical_split(name) for name in train_classes):
        problems.append(
            f"the class names {list_some(sorted(train_classes))} are all split names: "
            "put class folders inside the split folders (train/rose/1.jpg) or pass --label_column_name"
        )
    for split_name, labels in splits.items():
        if unknown := [name for name in labels.used if name not in train_classes]:
            problems.append(
                f"{split_name} has classes without images in train ({list_some(unknown)}): "
                f"add images of them to train, or remove them from {split_name}"
            )
    return problems


def warn_of_missing_classes(splits: Mapping[str, Labels], *, names: Sequence[str]) -> None:
    """Log a warning for each split that has no images of some classes, because their metrics will be missing."""
    for split_name, labels in splits.items():
        used = set(labels.used)
        if missing := [name for name in names if name not in used]:
            listed = list_some(missing)
            logger.warning("%s has no images of %d of %d classes: %s", split_name, len(missing), len(names), listed)


def _to_text(values: pa.Array, feature: Any, *, column: str) -> pa.Array:
    if not (isinstance(feature, datasets.Value) and _LABEL_TYPES.fullmatch(feature.dtype)):
        raise PipelineError(
            f"column {column} contains {feature}, not labels: "
            "pass --label_column_name with a column that has one text or integer label per image"
        )
    if feature.dtype.startswith("float"):  # pandas stores integers with missing values as floats
        try:
            values = values.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise PipelineError(
                f"column {column} contains numbers that are not integers ({error}): "
                "pass --label_column_name with a column of text or integer labels"
            ) from error
    return values.cast(pa.string())


def _sort_class_names(indices: Integers, values: Sequence[str]) -> Labels:
    names = natural_order(value for value in values if value not in _NO_LABEL)
    return Labels(Labels(indices, tuple(values)).aligned_to(names), tuple(names))
