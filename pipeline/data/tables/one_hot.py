"""One-hot tables: turn one 0/1 column per class into one label column.

Owns when columns are taken for classes, as Roboflow and ISIC write them. `columns` finds a label column.
"""

import logging
from collections.abc import Mapping

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.columns import has_label_column
from pipeline.data.splits import canonical_split
from pipeline.errors import list_some, raise_problems

logger = logging.getLogger(__name__)

_ONE, _ZERO = ("1", "1.0", "true"), ("0", "0.0", "false", "")
_LABEL = "label"  # the column that replaces the 0/1 columns


def join_one_hot_columns(
    splits: Mapping[str, datasets.Dataset], *, image: str, label: str | None
) -> dict[str, datasets.Dataset]:
    """Return the splits with one label column in place of the 0/1 columns, if the labels are one-hot.

    Labels are one-hot if no column has the name or type of a label column, and at least two columns contain only 0
    and 1. A row without a 1 has no label.

    Args:
        splits: The tables by split name.
        image: The image column.
        label: The value of `--label_column_name`. It keeps the columns as they are.

    Raises:
        PipelineError: If a row has several labels, or a split lacks some of the 0/1 columns.
    """
    train = next((name for name in splits if canonical_split(name) == "train"), next(iter(splits)))
    names = _find_class_columns(splits[train], image=image)
    if len(names) < 2 or (label is None and has_label_column(splits[train].features, image=image)):
        return dict(splits)
    if label is not None:
        if label in names:
            logger.warning(
                "column %r is one of %d columns that contain only 0 and 1 (%s); its classes are '0' and '1'. To use "
                "the columns as classes, remove --label_column_name",
                label,
                len(names),
                list_some(names),
            )
        return dict(splits)
    # A split without any of the columns is a split without labels.
    labeled = {name: split for name, split in splits.items() if set(names) & set(split.column_names)}
    raise_problems(
        f"{name} has no column {list_some(missing)}, which is a class in {train}: add it, with a 0 in each row"
        for name, split in labeled.items()
        if (missing := [column for column in names if column not in split.column_names])
    )
    ones = {name: np.stack([_ones(split, column) for column in names], axis=1) for name, split in labeled.items()}
    raise_problems(
        f"{name}: {len(rows)} of {len(matrix)} rows have a 1 in several of the columns {list_some(names)} "
        f"(first: row {rows[0]}); several labels per image are not supported: "
        "keep a single 1 in each row, or pass --label_column_name"
        for name, matrix in ones.items()
        if len(rows := np.flatnonzero(matrix.sum(axis=1) > 1))
    )
    logger.info("using %d columns that contain only 0 and 1 as classes: %s", len(names), list_some(names))
    return dict(splits) | {name: _replace(labeled[name], names, matrix) for name, matrix in ones.items()}


def _find_class_columns(split: datasets.Dataset, *, image: str) -> list[str]:
    """Return the columns that contain only 0 and 1, if at least two of them contain a 1."""
    names = [name for name in split.column_names if name != image and _is_binary(split, name)]
    with_ones = sum(bool(_ones(split, name).any()) for name in names)
    return names if with_ones > 1 else []


def _is_binary(split: datasets.Dataset, name: str) -> bool:
    feature = split.features[name]
    if not isinstance(feature, datasets.Value) or feature.dtype in ("binary", "large_binary"):
        return False
    values = split.data.column(name)
    # The first rows already exclude most columns.
    if not all(_texts(part.unique()) <= {*_ONE, *_ZERO} for part in (values[:100], values)):
        return False
    return bool(_texts(values.unique()) - {""})  # a column without any value is not a class


def _texts(values: pa.Array) -> set[str]:
    return {str(value).strip().lower() for value in values.to_pylist() if value is not None}


def _ones(split: datasets.Dataset, name: str) -> npt.NDArray[np.bool_]:
    values = split.data.column(name)
    ones = [value for value in values.unique().to_pylist() if str(value).strip().lower() in _ONE]
    found = pc.is_in(values, value_set=pa.array(ones, values.type))
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def _replace(split: datasets.Dataset, names: list[str], ones: npt.NDArray[np.bool_]) -> datasets.Dataset:
    indices = np.where(ones.any(axis=1), ones.argmax(axis=1), -1)
    return split.remove_columns(names).add_column(_LABEL, indices, feature=datasets.ClassLabel(names=names))
