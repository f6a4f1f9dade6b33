"""Loading: turn a dataset name into `DatasetDict(train, validation, test)`, in the same format for every source.

Owns the order of the steps. The steps are in other modules: reading (`source_types`, `folders`, `tables`,
`flowers102`, `streaming`), columns (`columns`), class names (`labels`), selecting rows (`splits`) and unreadable
images (`bad_images`).
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from pipeline import distributed
from pipeline.arguments import checks
from pipeline.arguments.data import NO_DATASET, DataArguments
from pipeline.data.bad_images import CheckedSplits, check_images
from pipeline.data.class_names import find_nearest, read_class_names, rename_model_classes, say_nearest
from pipeline.data.columns import Columns, find_columns, require_bytes, select_images
from pipeline.data.labels import (
    UNLABELED,
    Labels,
    drop_missing_values,
    drop_small_classes,
    find_label_problems,
    find_spelling_problems,
    read_integers,
    read_labels,
    warn_of_missing_classes,
)
from pipeline.data.report import DataReport, LoadedSplits, collect_notes
from pipeline.data.source_types import HUB, SOURCE_TYPES, describe_location, find_source_type
from pipeline.data.splits import SPLIT_ALIASES, classes_with_one_row, hold_out_rows, limit_rows, name_splits
from pipeline.data.streaming import Stream, open_stream
from pipeline.errors import PipelineError, list_some, raise_problems

logger = logging.getLogger(__name__)

ALL = "all"  # a value of --split, in addition to the split names: the rows of every split


@dataclass(frozen=True)
class _SourceSplit:
    """A split as the source provides it: undecoded images, and labels with the class names of this split."""

    images: datasets.Dataset
    labels: Labels


@dataclass(frozen=True)
class _Source:
    """A dataset as its source provides it.

    Attributes:
        source_type: The key of `SOURCE_TYPES`.
        columns: The columns of the images and the labels.
        splits: The splits by name.
    """

    source_type: str
    columns: Columns
    splits: Mapping[str, _SourceSplit]


def load_splits(args: DataArguments) -> LoadedSplits:
    """Load the train and validation splits, and the test split if there is one.

    Returns:
        Splits with the columns `image` (undecoded bytes or a path), `label` (a `ClassLabel` with the same class names
        in every split) and `index` (the row number in the split of the source). With `--streaming`, train is a
        `Stream`. The attribute `report` says what was decided about the data.

    Raises:
        PipelineError: If the arguments, the source, its columns, its labels or its images are invalid.
    """
    name = _require_valid(args)
    with collect_notes(name) as notes:
        source, splits = _load_streamed(name, args) if args.streaming else _load_all(name, args)
        if "test" not in splits:
            logger.info("no test split; only validation will be evaluated")
        ordered = {key: splits[key] for key in SPLIT_ALIASES if key in splits}
        checked = _limit_and_check(ordered, args=args, source=source)
    columns = source.columns
    return LoadedSplits.of(checked, DataReport(source.source_type, columns.image, columns.label, tuple(notes)))


def _load_all(name: str, args: DataArguments) -> tuple[_Source, dict[str, datasets.Dataset]]:
    source = _read_source(name, args)
    found = dict(source.splits)
    if len(found) == 1 and "train" not in found:
        logger.warning("using the only split, %s, as train", *found)
        found = {"train": next(iter(found.values()))}
    if "train" not in found:
        raise PipelineError(f"{name} has no train split, only {', '.join(found)}: add a train split")
    found, new_names = _name_classes(found, args)
    labeled = _drop_unlabeled_test(found)
    labels = {key: split.labels for key, split in labeled.items()}
    problems = list(find_spelling_problems(labels, listed=new_names.values()))
    if args.min_images_per_class and not problems:  # a misspelled class has few images
        labels = drop_small_classes(labels, minimum=args.min_images_per_class)
    raise_problems([*problems, *find_label_problems(labels)])
    class_names = labels["train"].names
    warn_of_missing_classes(labels, names=class_names)
    splits = {
        key: _to_rows(split, key, class_names=class_names) for key, split in _with_labels(labeled, labels).items()
    }
    return source, splits if "validation" in splits else splits | _hold_out_validation(splits["train"], args)


def load_split(
    args: DataArguments, *, split: str | None, class_names: Sequence[str], rename_model: bool = True
) -> CheckedSplits:
    """Load one split to evaluate a model on, with labels aligned by name to the classes of the model.

    Args:
        args: The dataset. If it has no validation split, the same images are held out from train as in `load_splits`.
        split: ``train``, ``validation``, ``test`` or ``all``. None selects test, or else validation, or else all.
        class_names: The class names of the model, in order. They can include classes that the dataset does not have.
        rename_model: Whether `--class_names` also renames the classes of the model.

    Returns:
        The only split by its name, with rows in the format of `load_splits`. In ``all``, `index` continues from one
        split to the next. The names of its `ClassLabel` are the new class names of the model.

    Raises:
        PipelineError: If the split is missing, the model lacks one of its classes, or the dataset is invalid.
    """
    if args.streaming:
        raise PipelineError("--streaming works with the train command only: remove --streaming")
    source = _read_source(_require_valid(args), args)
    found, new_names = _name_classes(source.splits, args, model=class_names if rename_model else ())
    if rename_model:
        class_names = rename_model_classes(class_names, new_names)
    labeled = _drop_unlabeled_test(found)
    if args.min_images_per_class and "train" not in labeled:
        logger.warning("ignoring --min_images_per_class, because %s has no train split", args.dataset_name)
    elif args.min_images_per_class:
        labels = {key: part.labels for key, part in labeled.items()}
        labeled = _with_labels(labeled, drop_small_classes(labels, minimum=args.min_images_per_class))
    name = split or next((name for name in ("test", "validation") if name in labeled), ALL)
    holds_out = name in ("train", "validation") and "train" in labeled and "validation" not in labeled
    needed = "train" if holds_out else name
    selected = labeled if name == ALL else {key: part for key, part in labeled.items() if key == needed}
    if not selected:
        raise PipelineError(f"{args.dataset_name} has no {name} split: pass --split {' or '.join([*labeled, ALL])}")
    _require_known(selected.values(), class_names, split=name)
    parts, start = [], 0
    for key, part in selected.items():
        parts.append(_to_rows(part, key, class_names=class_names, start=start))
        start += len(part.images)
    rows = _hold_out_validation(parts[0], args)[name] if holds_out else datasets.concatenate_datasets(parts)
    return _limit_and_check({name: rows}, args=args, source=source)


def _require_known(parts: Iterable[_SourceSplit], class_names: Sequence[str], *, split: str) -> None:
    """Raise an error if a class is missing from the model."""
    known = set(class_names)
    if unknown := list(dict.fromkeys(label for part in parts for label in part.labels.used if label not in known)):
        near = say_nearest(find_nearest(unknown, class_names), owner="the model")
        raise PipelineError(
            f"{split} has classes that the model does not have: {list_some(unknown)}{near and f'; it has {near}'} "
            f"(classes of the model: {list_some(class_names)})\n"
            "map the names of the data or of the model with --class_names FILE (one line per class: OLD,NEW), "
            "remove these images, or evaluate a model that was trained on these classes"
        )


def _load_streamed(name: str, args: DataArguments) -> tuple[_Source, dict[str, Any]]:
    """Load train as a stream and all other splits completely, with the class names of the stream."""
    source_type = find_source_type(name)
    if source_type != HUB:
        raise PipelineError(f"{name} is {describe_location(name)}; --streaming works with Hub datasets only")
    train, others = open_stream(args)
    source = _read_columns(others, args, source_type=source_type)
    class_names = train.features["label"].names
    labeled = _drop_unlabeled_test(_name_classes(source.splits, args)[0])
    rows = {key: _to_rows(split, key, class_names=class_names) for key, split in labeled.items()}
    return source, {"train": train} | rows


def _read_source(name: str, args: DataArguments) -> _Source:
    source_type = find_source_type(name)
    found = name_splits(distributed.main_first(lambda: SOURCE_TYPES[source_type].read(name, args)))
    return _read_columns(found, args, source_type=source_type)


def _read_columns(found: Mapping[str, datasets.Dataset], args: DataArguments, *, source_type: str) -> _Source:
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
        splits[split_name] = _SourceSplit(images, read_labels(split, column=columns.label))
    return _Source(source_type, columns, splits)


def _name_classes(
    found: Mapping[str, _SourceSplit], args: DataArguments, *, model: Sequence[str] = ()
) -> tuple[dict[str, _SourceSplit], dict[str, str]]:
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
        return _with_labels(found, drop_missing_values(labels)), {}
    names = read_class_names(args.class_names)
    labels = drop_missing_values(labels, keep=names.keys)
    counts = Counter(dict.fromkeys([*model, *(name for part in labels.values() for name in part.names)], 0))
    for part in labels.values():
        counts.update(part.counts)
    new_names = names.new_names(counts)
    return _with_labels(found, {key: part.renamed(new_names) for key, part in labels.items()}), new_names


def _with_labels(splits: Mapping[str, _SourceSplit], labels: Mapping[str, Labels]) -> dict[str, _SourceSplit]:
    return {key: dataclasses.replace(split, labels=labels[key]) for key, split in splits.items()}


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
        f"{name} has no labels{found[name].labels.missing_values}: add labels or pass --label_column_name"
        for name in unlabeled
        if name != "test" or not labeled
    )
    if unlabeled:
        logger.warning("test has no labels; its %d images will not be evaluated", len(found["test"].images))
    return labeled


def _to_rows(split: _SourceSplit, split_name: str, *, class_names: Sequence[str], start: int = 0) -> datasets.Dataset:
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


def _hold_out_validation(train: datasets.Dataset, args: DataArguments) -> dict[str, datasets.Dataset]:
    labels = read_integers(train)
    if len(too_small := classes_with_one_row(labels)):
        names = list_some([train.features["label"].names[label] for label in too_small])
        if args.min_images_per_class is None:
            raise PipelineError(
                f"cannot hold out a validation split, because train has only one image of {names}: "
                "add images of each class, add a validation split, or pass\n--min_images_per_class 1 to keep these "
                "classes in train only, or --min_images_per_class 2 to drop them"
            )
        if len(too_small) == len(np.unique(labels)):
            raise PipelineError(
                f"cannot hold out a validation split, because train has only one image of each class ({names}): "
                "add images of each class, or add a validation split"
            )
        logger.warning("validation has no images of %d classes with one image, %s", len(too_small), names)
    train_rows, validation_rows = hold_out_rows(labels, fraction=args.validation_fraction, seed=args.split_seed)
    logger.info(
        "no validation split; holding out %d of %d training images (stratified, seed %d)",
        len(validation_rows),
        len(labels),
        args.split_seed,
    )
    return {"train": train.select(train_rows), "validation": train.select(validation_rows)}


def _limit_and_check(splits: Mapping[str, Any], *, args: DataArguments, source: _Source) -> CheckedSplits:
    """Return at most as many rows of each split as the sample limits allow, without unreadable images."""
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples}
    limited = {name: _limit(split, limits.get(name, args.max_test_samples), args) for name, split in splits.items()}
    rendered = SOURCE_TYPES[source.source_type].rendered
    return CheckedSplits(limited) if rendered else check_images(limited, policy=args.bad_images)


def _limit(split: Any, limit: int | None, args: DataArguments) -> Any:
    if isinstance(split, Stream) or limit is None or limit >= len(split):
        return split
    return split.select(limit_rows(read_integers(split), limit=limit, seed=args.split_seed))
