"""Splits as their source provides them: undecoded images, and labels with the class names of the split."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow.compute

from pipeline import distributed
from pipeline.arguments.data import DataArguments
from pipeline.data.columns import Columns, find_columns, require_bytes, select_images
from pipeline.data.labels.class_names import read_class_names
from pipeline.data.labels.read import UNLABELED, Labels, drop_missing_values, read_labels
from pipeline.data.source_types import SOURCE_TYPES, find_source_type
from pipeline.data.splits import name_splits
from pipeline.errors import list_some, raise_problems

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceSplit:
    """A split as the source provides it: undecoded images, and labels with the class names of this split."""

    images: datasets.Dataset
    labels: Labels

    @property
    def paths(self) -> list[str | None]:
        """The image file of each row, or None if the row contains the bytes of the image."""
        values = self.images.data.column("image")
        without_bytes = pyarrow.compute.is_null(pyarrow.compute.struct_field(values, "bytes"))
        paths = pyarrow.compute.struct_field(values, "path")
        return pyarrow.compute.if_else(without_bytes, paths, None).to_pylist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Source:
    """A dataset as its source provides it.

    Attributes:
        source_type: The key of `SOURCE_TYPES`.
        columns: The columns of the images and the labels.
        splits: The splits by name.
    """

    source_type: str
    columns: Columns
    splits: Mapping[str, SourceSplit]


def read_source(name: str, args: DataArguments) -> Source:
    """Read the dataset of a name.

    Raises:
        PipelineError: If the name matches no source type, or the source, its columns or its labels are invalid.
    """
    source_type = find_source_type(name)
    found = name_splits(distributed.main_first(lambda: SOURCE_TYPES[source_type].read(name, args)))
    return read_columns(found, args, source_type=source_type)


def read_columns(found: Mapping[str, datasets.Dataset], args: DataArguments, *, source_type: str) -> Source:
    """Return the images and labels of all splits. The columns of the first split decide which columns are used."""
    features = next(iter(found.values())).features
    columns = find_columns(features, image=args.image_column_name, label=args.label_column_name)
    logger.info(
        "read %s as %s (image column %r, label column %r%s)",
        args.dataset_name,
        source_type,
        columns.image,
        columns.label,
        f"; ignoring {list_some(columns.ignored, at_most=10)}" if columns.ignored else "",
    )
    raise_problems(
        f"{split_name} has no column {columns.image!r}, only {', '.join(split.features)}: "
        "use the same image column in all splits"
        for split_name, split in found.items()
        if columns.image not in split.features
    )
    splits = {}
    for split_name, split in found.items():
        images = select_images(split, column=columns.image)
        if not SOURCE_TYPES[source_type].follows_paths:
            require_bytes(images, split_name=split_name)
        splits[split_name] = SourceSplit(images, read_labels(split, column=columns.label))
    return Source(source_type, columns, splits)


def name_classes(
    found: Mapping[str, SourceSplit], args: DataArguments, *, model: Sequence[str] = ()
) -> tuple[dict[str, SourceSplit], dict[str, str]]:
    """Return the splits with their final class names: without values that mean "no label", and renamed.

    Args:
        found: The splits.
        args: The flags.
        model: Class names of a model that are renamed too.

    Returns:
        The splits, and the new names in `--class_names` by old name.
    """
    labels = {key: split.labels for key, split in found.items()}
    if args.class_names is None:
        return with_labels(found, drop_missing_values(labels)), {}
    names = read_class_names(args.class_names)
    labels = drop_missing_values(labels, keep=names.keys)
    counts = Counter(dict.fromkeys([*model, *(name for part in labels.values() for name in part.names)], 0))
    for part in labels.values():
        counts.update(part.counts)
    new_names = names.new_names(counts)
    return with_labels(found, {key: part.renamed(new_names) for key, part in labels.items()}), new_names


def with_labels(splits: Mapping[str, SourceSplit], labels: Mapping[str, Labels]) -> dict[str, SourceSplit]:
    """Return the splits with other labels."""
    return {key: dataclasses.replace(split, labels=labels[key]) for key, split in splits.items()}


def drop_unlabeled_test(found: Mapping[str, SourceSplit]) -> dict[str, SourceSplit]:
    """Return the splits without a test split that has no labels, as published for some competitions.

    Raises:
        PipelineError: If any other split has no labels.
    """
    labeled = {split_name: split for split_name, split in found.items() if split.labels.used}
    unlabeled = [split_name for split_name in found if split_name not in labeled]
    raise_problems(
        f"{name} has no labels{found[name].labels.missing_values}: add labels or pass --label_column_name"
        for name in unlabeled
        if name != "test" or not labeled
    )
    if unlabeled:
        logger.warning("test has no labels; its %d images will not be evaluated", len(found["test"].images))
    return labeled


def to_rows(split: SourceSplit, split_name: str, *, class_names: Sequence[str], start: int = 0) -> datasets.Dataset:
    """Return the labeled rows with the columns `image`, `label` and `index`, which counts from ``start``."""
    labels = split.labels.aligned_to(class_names)
    # Columns are added before rows are selected, because adding a column to a selection would copy every image.
    rows = split.images.add_column("label", labels, feature=datasets.ClassLabel(names=list(class_names)))
    rows = rows.add_column("index", np.arange(start, start + len(labels)))
    if unlabeled := split.labels.num_unlabeled:
        values = split.labels.missing_values
        logger.warning("%s: skipping %d of %d rows without a label%s", split_name, unlabeled, len(labels), values)
    kept = np.flatnonzero(labels != UNLABELED)
    return rows if len(kept) == len(rows) else rows.select(kept)
