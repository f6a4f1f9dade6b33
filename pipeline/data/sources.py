"""Loading: turn a dataset name into `DatasetDict(train, validation, test)`, in the same format for every source.

Owns the order of the steps. The steps are in other modules: reading (`source_splits`), class names (`labels`),
selecting rows (`splits`) and unreadable images (`bad_images`).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from pipeline.arguments import checks
from pipeline.arguments.data import NO_DATASET, DataArguments
from pipeline.data.bad_images import CheckedSplits, check_images
from pipeline.data.corrections import Changes, apply_changes, find_changes, read_corrections
from pipeline.data.labels.checks import (
    find_label_problems,
    find_spelling_problems,
    warn_of_lost_classes,
    warn_of_missing_classes,
    warn_of_repeated_images,
)
from pipeline.data.labels.class_names import rename_model_classes
from pipeline.data.labels.read import drop_small_classes, read_integers
from pipeline.data.labels.spelling import find_nearest, say_nearest
from pipeline.data.report import DataReport, LoadedSplits, collect_notes
from pipeline.data.source_splits import (
    Source,
    SourceSplit,
    drop_unlabeled_test,
    name_classes,
    read_columns,
    read_source,
    to_rows,
    with_labels,
)
from pipeline.data.source_types import HUB, SOURCE_TYPES, describe_location, find_source_type
from pipeline.data.splits import SPLIT_ALIASES, classes_with_one_row, hold_out_rows, limit_rows
from pipeline.data.streaming import Stream, open_stream
from pipeline.errors import PipelineError, list_some, raise_problems

logger = logging.getLogger(__name__)

ALL = "all"  # a value of --split, in addition to the split names: the rows of every split


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
        changes = find_changes(ordered, read_corrections(args), name)
        checked = _limit_and_check(ordered, args=args, source=source, changes=changes)
    columns = source.columns
    return LoadedSplits.of(checked, DataReport(source.source_type, columns.image, columns.label, tuple(notes)))


def _load_all(name: str, args: DataArguments) -> tuple[Source, dict[str, datasets.Dataset]]:
    source = read_source(name, args)
    found = dict(source.splits)
    if len(found) == 1 and "train" not in found:
        logger.warning("using the only split, %s, as train", *found)
        found = {"train": next(iter(found.values()))}
    if "train" not in found:
        raise PipelineError(f"{name} has no train split, only {', '.join(found)}: add a train split")
    found, new_names = name_classes(found, args)
    labeled = drop_unlabeled_test(found)
    labels = {key: split.labels for key, split in labeled.items()}
    _warn_of_repeated_images(source, labeled)
    problems = list(find_spelling_problems(labels, listed=new_names.values()))
    if args.min_images_per_class and not problems:  # a misspelled class has few images
        labels = drop_small_classes(labels, minimum=args.min_images_per_class)
    raise_problems([*problems, *find_label_problems(labels)])
    class_names = labels["train"].names
    warn_of_missing_classes(labels, names=class_names)
    splits = {key: to_rows(split, key, class_names=class_names) for key, split in with_labels(labeled, labels).items()}
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
    source = read_source(_require_valid(args), args)
    found, new_names = name_classes(source.splits, args, model=class_names if rename_model else ())
    if rename_model:
        class_names = rename_model_classes(class_names, new_names)
    labeled = drop_unlabeled_test(found)
    if args.min_images_per_class and "train" not in labeled:
        logger.warning("ignoring --min_images_per_class, because %s has no train split", args.dataset_name)
    elif args.min_images_per_class:
        labels = {key: part.labels for key, part in labeled.items()}
        labeled = with_labels(labeled, drop_small_classes(labels, minimum=args.min_images_per_class))
    name = split or next((name for name in ("test", "validation") if name in labeled), ALL)
    holds_out = name in ("train", "validation") and "train" in labeled and "validation" not in labeled
    needed = "train" if holds_out else name
    selected = labeled if name == ALL else {key: part for key, part in labeled.items() if key == needed}
    if not selected:
        raise PipelineError(f"{args.dataset_name} has no {name} split: pass --split {' or '.join([*labeled, ALL])}")
    _require_known(selected.values(), class_names, split=name)
    _warn_of_repeated_images(source, selected)
    rows, starts, start = {}, dict[str, int](), 0
    for key, part in selected.items():
        starts[key] = start
        rows[key] = to_rows(part, key, class_names=class_names, start=start)
        start += len(part.images)
    if holds_out:
        rows = {name: _hold_out_validation(rows["train"], args)[name]}
    of_these = {flag: [line for line in lines if line.split in rows] for flag, lines in read_corrections(args).items()}
    rows = apply_changes(rows, find_changes(rows, of_these, args.dataset_name, starts=starts))
    joined = rows[name] if name in rows else datasets.concatenate_datasets(list(rows.values()))
    return _limit_and_check({name: joined}, args=args, source=source)


def _require_known(parts: Iterable[SourceSplit], class_names: Sequence[str], *, split: str) -> None:
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


def _load_streamed(name: str, args: DataArguments) -> tuple[Source, dict[str, Any]]:
    """Load train as a stream and all other splits completely, with the class names of the stream."""
    source_type = find_source_type(name)
    if source_type != HUB:
        raise PipelineError(f"{name} is {describe_location(name)}; --streaming works with Hub datasets only")
    train, others = open_stream(args)
    source = read_columns(others, args, source_type=source_type)
    class_names = train.features["label"].names
    labeled = drop_unlabeled_test(name_classes(source.splits, args)[0])
    rows = {key: to_rows(split, key, class_names=class_names) for key, split in labeled.items()}
    return source, {"train": train} | rows


def _require_valid(args: DataArguments) -> str:
    """Return the name of the dataset.

    Raises:
        PipelineError: If there is none, or a number is out of range.
    """
    raise_problems([*checks.find_problems([args]), *([] if args.dataset_name else [NO_DATASET])])
    return args.dataset_name or ""


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


def _warn_of_repeated_images(source: Source, splits: Mapping[str, SourceSplit]) -> None:
    if SOURCE_TYPES[source.source_type].follows_paths:
        paths = {key: split.paths for key, split in splits.items()}
        warn_of_repeated_images(paths, {key: split.labels for key, split in splits.items()})


def _limit_and_check(
    splits: Mapping[str, Any], *, args: DataArguments, source: Source, changes: Changes | None = None
) -> CheckedSplits:
    """Return at most as many rows of each split as the sample limits allow, corrected, without unreadable images.

    Held-out and sampled rows do not depend on the corrections, so runs with and without them are comparable.
    """
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples}
    limited = {name: _limit(split, limits.get(name, args.max_test_samples), args) for name, split in splits.items()}
    if changes:
        limited = apply_changes(limited, changes)
    rendered = SOURCE_TYPES[source.source_type].rendered
    if rendered:
        return CheckedSplits(limited)
    checked = check_images(limited, policy=args.bad_images, max_bad=args.max_bad_images)
    for name, split in limited.items():
        if isinstance(split, datasets.Dataset) and len(checked[name]) < len(split):
            warn_of_lost_classes(name, before=split, after=checked[name])
    return checked


def _limit(split: Any, limit: int | None, args: DataArguments) -> Any:
    if isinstance(split, Stream) or limit is None or limit >= len(split):
        return split
    return split.select(limit_rows(read_integers(split), limit=limit, seed=args.split_seed))
