"""Labels: convert a label column of any type to class indices.

Owns how class names are derived from a column, their order, and which values mean that a row has no label. `columns`
finds the label column, `class_names` renames classes, and `checks` compares the classes of different splits.
"""

import dataclasses
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipeline.data.labels.spelling import count_images
from pipeline.data.splits import Integers
from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

UNLABELED = -1
_LABEL_TYPES = re.compile(r"(large_)?string|u?int\d+|float\d+|bool|null")
_MISSING_WORDS = ("nan", "NaN", "<NA>")  # how Python and pandas write a missing value as text
_MINUS_ONE, _ONE = ("-1", "-1.0"), ("1", "1.0")


@dataclass(frozen=True)
class Labels:
    """The labels of a split.

    Attributes:
        indices: One class index per row (an index into ``names``), or `UNLABELED`.
        names: The class names.
        declared: Whether the data lists the class names (`ClassLabel`), so that they were not derived from values.
        missing: The values that mean "no label", other than empty cells, with their numbers of rows.
        num_dropped: The number of rows whose class was dropped (`--min_images_per_class`).
    """

    indices: Integers
    names: tuple[str, ...]
    declared: bool = False
    missing: Mapping[str, int] = field(default_factory=dict)
    num_dropped: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The number of images of each class that occurs in at least one row."""
        used = np.bincount(self.indices[self.indices != UNLABELED], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, used, strict=True) if count}

    @property
    def used(self) -> tuple[str, ...]:
        """The class names that occur in at least one row."""
        return tuple(self.counts)

    @property
    def num_unlabeled(self) -> int:
        """The number of rows without a label in the data."""
        return int(np.count_nonzero(self.indices == UNLABELED)) - self.num_dropped

    @property
    def missing_values(self) -> str:
        """The values that mean "no label", in brackets, for messages. Empty if there are none."""
        return f" ({', '.join(f'{value!r} in {rows}' for value, rows in self.missing.items())})" if self.missing else ""

    def aligned_to(self, names: Sequence[str]) -> Integers:
        """Return the class indices relative to other class names. Rows of all other classes become `UNLABELED`."""
        index_of = {name: index for index, name in enumerate(names)}
        # UNLABELED is -1, so it selects the last entry of the lookup table.
        lookup = np.array([index_of.get(name, UNLABELED) for name in self.names] + [UNLABELED])
        return lookup[self.indices]

    def limited_to(self, names: Collection[str]) -> "Labels":
        """Return the labels with these class names only. Rows of all other classes become `UNLABELED`."""
        names = set(names)
        kept = tuple(name for name in self.names if name in names)
        return dataclasses.replace(self, indices=self.aligned_to(kept), names=kept)

    def renamed(self, new_names: Mapping[str, str]) -> "Labels":
        """Return the labels with new class names in the same order. Classes with the same new name are merged."""
        renamed = [new_names.get(name, name) for name in self.names]
        names = tuple(dict.fromkeys(renamed))
        return dataclasses.replace(
            self, indices=dataclasses.replace(self, names=tuple(renamed)).aligned_to(names), names=names
        )


def read_integers(split: datasets.Dataset, column: str = "label") -> Integers:
    """Return an integer column as an array.

    The column is read 1,000 rows at a time, because after `select` the `datasets` library builds one table per row.
    """
    rows = split.with_format("numpy").select_columns(column)
    parts = [np.asarray(batch[column], dtype=np.int64) for batch in rows.iter(batch_size=1000)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def read_labels(split: datasets.Dataset, *, column: str) -> Labels:
    """Return the labels of a split. All rows are `UNLABELED` if the column is missing.

    The names of a `ClassLabel` keep their order. Names from a text or number column are sorted; values such as ``-1``
    and ``nan`` are among them until `drop_missing_values`.

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
        return Labels(indices, tuple(feature.names), declared=True)
    encoded = _to_text(values, feature, column=column).dictionary_encode()
    indices = encoded.indices.fill_null(UNLABELED).to_numpy(zero_copy_only=False).astype(np.int64)
    labels = Labels(indices, tuple(encoded.dictionary.to_pylist()))
    return _sorted(labels)


def drop_missing_values(splits: Mapping[str, Labels], *, keep: Collection[str] = ()) -> dict[str, Labels]:
    """Return the labels without the values that mean "no label" in a text or number column.

    These are ``nan``, ``NaN`` and ``<NA>``, and ``-1``, except if 1 is the only other value of all splits: then -1 and
    1 are the two classes, as in the attributes of CelebA.

    Args:
        splits: The labels of all splits.
        keep: Values that are classes, because the user listed them.
    """
    values = {name for labels in splits.values() if not labels.declared for name in labels.names} - set(keep)
    missing = {value for value in values if value.strip() in _MISSING_WORDS}
    minus_one = {value for value in values if value.strip() in _MINUS_ONE}
    others = values - missing - minus_one
    if minus_one and others and all(value.strip() in _ONE for value in others):
        logger.warning("the label values are -1 and 1, so -1 is a class and does not mean a missing label")
    else:
        missing |= minus_one
    return {name: labels if labels.declared else _without(labels, missing) for name, labels in splits.items()}


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted: first integers by value (2 before 10), then all other names alphabetically."""

    def key(name: str) -> tuple[int, int, str]:
        # Python converts at most 4300 digits to an integer.
        return (0, int(name), name) if len(name) < 1000 and name.removeprefix("-").isdecimal() else (1, 0, name)

    return sorted(names, key=key)


def drop_small_classes(splits: Mapping[str, Labels], *, minimum: int) -> dict[str, Labels]:
    """Return the labels without the classes that have fewer images in train, with a warning that names them.

    Raises:
        PipelineError: If a split has no images left.
    """
    in_train = splits["train"].counts
    occurring = dict.fromkeys(name for labels in splits.values() for name in labels.used)
    small = {name: in_train.get(name, 0) for name in occurring if in_train.get(name, 0) < minimum}
    if not small:
        return dict(splits)
    rows = {split: sum(labels.counts.get(name, 0) for name in small) for split, labels in splits.items()}
    logger.warning(
        "--min_images_per_class %d: dropping %d of %d classes from all splits: %s; skipping their images: %s",
        *(minimum, len(small), len(occurring), count_images(small)),
        ", ".join(f"{count} in {split}" for split, count in rows.items()),
    )
    kept = [name for name in splits["train"].names if name not in small]
    left = {
        split: dataclasses.replace(labels.limited_to(kept), num_dropped=rows[split]) for split, labels in splits.items()
    }
    if empty := [split for split, labels in left.items() if not labels.used]:
        raise PipelineError(
            f"--min_images_per_class {minimum} drops all images of {', '.join(empty)}: use a smaller number"
        )
    return left


def _to_text(values: pa.Array, feature: Any, *, column: str) -> pa.Array:
    """Return the values as text. Empty cells, blank text and the number NaN are null."""
    if not (isinstance(feature, datasets.Value) and _LABEL_TYPES.fullmatch(feature.dtype)):
        raise PipelineError(
            f"column {column} contains {feature}, not labels: "
            "pass --label_column_name with a column that has one text or integer label per image"
        )
    if feature.dtype.startswith("float"):  # pandas stores integers with missing values as floats
        values = pyarrow.compute.if_else(pyarrow.compute.is_nan(values), None, values)
        try:
            values = values.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise PipelineError(
                f"column {column} contains numbers that are not integers ({error}): "
                "pass --label_column_name with a column of text or integer labels"
            ) from error
    text = values.cast(pa.string())
    blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(text), "")
    return pyarrow.compute.if_else(blank, None, text)


def _sorted(labels: Labels) -> Labels:
    names = natural_order(labels.names)
    return dataclasses.replace(labels, indices=labels.aligned_to(names), names=tuple(names))


def _without(labels: Labels, values: Collection[str]) -> Labels:
    missing = {name: rows for name, rows in labels.counts.items() if name in values}
    kept = [name for name in labels.names if name not in values]
    return dataclasses.replace(labels.limited_to(kept), missing=missing)
