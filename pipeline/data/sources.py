"""Loading: turn a dataset name into `DatasetDict(train, validation, test)`, in the same format for every source.

Owns the order of the steps. The steps are in other modules: reading (`source_types`, `folders`, `tables`,
`flowers102`, `streaming`), columns (`columns`), class names (`labels`), selecting rows (`splits`) and unreadable
images (`bad_images`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from pipeline import distributed
from pipeline.arguments import checks
from pipeline.arguments.data import NO_DATASET, DataArguments
from pipeline.data.bad_images import CheckedSplits, check_images
from pipeline.data.columns import find_columns, require_bytes, select_images
from pipeline.data.labels import (
    UNLABELED,
    Labels,
    find_label_problems,
    read_integers,
    read_labels,
    warn_of_missing_classes,
)
from pipeline.data.source_types import HUB, SOURCE_TYPES, SourceType, describe_location, find_source_type
from pipeline.data.splits import SPLIT_ALIASES, classes_with_one_row, hold_out_rows, limit_rows, name_splits
from pipeline.data.streaming import open_stream
from pipeline.errors import PipelineError, list_some, raise_problems

logger = logging.getLogger(__name__)

ALL = "all"  # a value of --split, in addition to the split names: the rows of every split


@dataclass(frozen=True)
class _SourceSplit:
    """A split as the source provides it: undecoded images, and labels with the class names of this split."""

    images: datasets.Dataset
    labels: Labels


def load_splits(args: DataArguments) -> CheckedSplits:
    """Load the train and validation splits, and the test split if there is one.

    Returns:
        Splits with the columns `image` (undecoded bytes or a path), `label` (a `ClassLabel` with the same class names
        in every split) and `index` (the row number in the split of the source). With `--streaming`, train is a
        `Stream`.

    Raises:
        PipelineError: If the arguments, the source, its columns, its labels or its images are invalid.
    """
    if args.streaming:
        return _load_streamed(args)
    source, found = _read_source(args)
    if len(found) == 1 and "train" not in found:
        logger.warning("using the only split, %s, as train", *found)
        found = {"train": next(iter(found.values()))}
    if "train" not in found:
        raise PipelineError(f"{args.dataset_name} has no train split, only {', '.join(found)}: add a train split")
    labeled = _drop_unlabeled_test(found)
    labels = {split_name: split.labels for split_name, split in labeled.items()}
    raise_problems(find_label_problems(labels))
    class_names = labels["train"].names
    warn_of_missing_classes(labels, names=class_names)
    splits = {name: _to_rows(split, name, class_names=class_names) for name, split in labeled.items()}
    if "validation" not in splits:
        splits |= _hold_out_validation(splits["train"], args)
    if "test" not in splits:
        logger.info("no test split; only validation will be evaluated")
    ordered = [name for name in SPLIT_ALIASES if name in splits]
    return _limit_and_check({name: splits[name] for name in ordered}, args=args, source=source)


def load_split(args: DataArguments, *, split: str | None, class_names: Sequence[str]) -> CheckedSplits:
    """Load one split to evaluate a model on, with labels aligned by name to the classes of the model.

    Args:
        args: The dataset. If it has no validation split, the same images are held out from train as in `load_splits`.
        split: ``train``, ``validation``, ``test`` or ``all``. None selects test, or else validation, or else all.
        class_names: The class names of the model, in order. They can include classes that the dataset does not have.

    Returns:
        The only split by its name, with rows in the format of `load_splits`. In ``all``, `index` continues from one
        split to the next.

    Raises:
        PipelineError: If the split is missing, the model lacks one of its classes, or the dataset is invalid.
    """
    if args.streaming:
        raise PipelineError("--streaming works with the train command only: remove --streaming")
    source, found = _read_source(args)
    labeled = _drop_unlabeled_test(found)
    name = split or next((name for name in ("test", "validation") if name in labeled), ALL)
    holds_out = name in ("train", "validation") and "train" in labeled and "validation" not in labeled
    needed = "train" if holds_out else name
    selected = labeled if name == ALL else {key: part for key, part in labeled.items() if key == needed}
    if not selected:
        raise PipelineError(f"{args.dataset_name} has no {name} split: pass --split {' or '.join([*labeled, ALL])}")
    unknown = {label: None for part in selected.values() for label in part.labels.used if label not in class_names}
    if unknown:
        raise PipelineError(
            f"{name} has classes that the model does not have: {list_some(list(unknown))} "
            f"(classes of the model: {list_some(class_names)})\n"
            "remove these images, or evaluate a model that was trained on these classes"
        )
    parts, start = [], 0
    for key, part in selected.items():
        parts.append(_to_rows(part, key, class_names=class_names, start=start))
        start += len(part.images)
    rows = _hold_out_validation(parts[0], args)[name] if holds_out else datasets.concatenate_datasets(parts)
    return _limit_and_check({name: rows}, args=args, source=source)


def _load_streamed(args: DataArguments) -> CheckedSplits:
    """Load train as a stream and all other splits completely, with the class names of the stream."""
    name = _require_valid(args)
    source_type = find_source_type(name)
    if source_type != HUB:
        raise PipelineError(f"{name} is {describe_location(name)}; --streaming works with Hub datasets only")
    train, others = open_stream(args)
    class_names = train.features["label"].names
    splits: dict[str, Any] = {"train": train}
    for split_name, split in _drop_unlabeled_test(_split_columns(others, args, source_type=source_type)).items():
        rows = _to_rows(split, split_name, class_names=class_names)
        splits[split_name] = rows
    return _limit_and_check(splits, args=args, source=SOURCE_TYPES[source_type])


def _read_source(args: DataArguments) -> tuple[SourceType, dict[str, _SourceSplit]]:
    name = _require_valid(args)
    source_type = find_source_type(name)
    source = SOURCE_TYPES[source_type]
    found = name_splits(distributed.main_first(lambda: source.read(name, args)))
    return source, _split_columns(found, args, source_type=source_type)


def _split_columns(
    found: Mapping[str, datasets.Dataset], args: DataArguments, *, source_type: str
) -> dict[str, _SourceSplit]:
    """Return the images and labels of all splits. The columns of the first split decide which columns are used."""
    features = next(iter(found.values())).features
    columns = find_columns(features, image=args.image_column_name, label=args.label_column_name)
    logger.info(
        "read %s as %s (image column %r, label column %r)", args.dataset_name, source_type, columns.image, columns.label
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
        splits[split_name] = _SourceSplit(images, read_labels(split, column=columns.label))
    return splits


def _require_valid(args: DataArguments) -> str:
    """Return the name of the dataset.

    Raises:
        PipelineError: If there is none, or a number is out of range.
    """
    raise_problems([*checks.find_problems([args]), *([] if args.dataset_name else [NO_DATASET])])
    return args.dataset_name or ""


def _drop_unlabeled_test(found: Mapping[str, _SourceSplit]) -> dict[str, _SourceSplit]:
    """Return the splits without a test split that has no labels, as published for some competitions.

    Raises:
        PipelineError: If any other split has no labels.
    """
    labeled = {split_name: split for split_name, split in found.items() if split.labels.used}
    unlabeled = [split_name for split_name in found if split_name not in labeled]
    raise_problems(
        f"{name} has no labels: add labels or pass --label_column_name"
        for name in unlabeled
        if name != "test" or not labeled
    )
    if unlabeled:
        logger.warning("test has no labels; it will not be evaluated")
    return labeled


def _to_rows(split: _SourceSplit, split_name: str, *, class_names: Sequence[str], start: int = 0) -> datasets.Dataset:
    """Return the labeled rows with the columns `image`, `label` and `index`, which counts from ``start``."""
    labels = split.labels.aligned_to(class_names)
    # Columns are added before rows are selected, because adding a column to a selection would copy every image.
    rows = split.images.add_column("label", labels, feature=datasets.ClassLabel(names=list(class_names)))
    rows = rows.add_column("index", np.arange(start, start + len(labels)))
    if split.labels.num_unlabeled == 0:
        return rows
    logger.warning("%s: skipping %d of %d rows without a label", split_name, split.labels.num_unlabeled, len(labels))
    return rows.select(np.flatnonzero(labels != UNLABELED))


def _hold_out_validation(train: datasets.Dataset, args: DataArguments) -> dict[str, datasets.Dataset]:
    labels = read_integers(train)
    if len(too_small := classes_with_one_row(labels)):
        names = list_some([train.features["label"].names[label] for label in too_small])
        raise PipelineError(
            f"cannot hold out a validation split, because train has only one image of {names}: "
            "add images of each class, or add a validation split"
        )
    train_rows, validation_rows = hold_out_rows(labels, fraction=args.validation_fraction, seed=args.split_seed)
    logger.info(
        "no validation split; holding out %d of %d training images (stratified, seed %d)",
        len(validation_rows),
        len(labels),
        args.split_seed,
    )
    return {"train": train.select(train_rows), "validation": train.select(validation_rows)}


def _limit_and_check(splits: Mapping[str, Any], *, args: DataArguments, source: SourceType) -> CheckedSplits:
    """Return at most as many rows of each split as the sample limits allow, without unreadable images."""
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples}
    limited = {name: _limit(split, limits.get(name, args.max_test_samples), args) for name, split in splits.items()}
    return CheckedSplits(limited) if source.rendered else check_images(limited, policy=args.bad_images)


def _limit(split: Any, limit: int | None, args: DataArguments) -> Any:
    if limit is None or limit >= len(split):
        return split
    return split.select(limit_rows(read_integers(split), limit=limit, seed=args.split_seed))
