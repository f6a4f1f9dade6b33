"""A name -> `DatasetDict(train, validation, test)`: the way of the data, from whatever source to one shape.

Owns the order of the steps. Each step is elsewhere: reading (`kinds`, `folders`), columns (`columns`), class
names (`labels`), choices of rows (`splits`), broken images (`images`).
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute

from pipeline import distributed
from pipeline.arguments.data import DataArguments
from pipeline.data.bad_images import check_images
from pipeline.data.columns import find_columns, require_bytes, take_images
from pipeline.data.labels import (
    UNLABELLED,
    Labels,
    find_label_problems,
    read_integers,
    read_labels,
    warn_of_missing_classes,
)
from pipeline.data.source_types import SOURCE_TYPES, SourceType, find_source_type
from pipeline.data.splits import SPLIT_ALIASES, classes_with_one_row, hold_out_rows, limit_rows, name_splits
from pipeline.data.streaming import Stream, open_stream
from pipeline.errors import PipelineError, list_some, refuse

logger = logging.getLogger(__name__)

_ROWS = 1000  # that are Python objects at a time
ALL = "all"  # beside the splits: every row there is


@dataclass(frozen=True)
class _Raw:
    """A split as it was found: its images, not decoded, and its labels by the names it has."""

    images: datasets.Dataset
    labels: Labels


def load_splits(args: DataArguments) -> datasets.DatasetDict:
    """Return train, validation and, where there is one, test: all with `image`, `label` and `index`.

    `image` is undecoded bytes or a path, `label` a `ClassLabel` with the same names in every split, and
    `index` the number of the row in the split it was read from. With `--streaming`, train is a `Stream`.

    Raises:
        PipelineError: If the arguments, the source, its columns, its labels or its images cannot be used.
    """
    if args.streaming:
        return _load_streamed(args)
    source, found = _read(args)
    if len(found) == 1 and "train" not in found:
        logger.warning("the only split, %s, is taken for train", *found)
        found = {"train": next(iter(found.values()))}
    if "train" not in found:
        raise PipelineError(f"{args.dataset_name}: no train split; there are: {', '.join(found)}.")
    raw = _with_labels(found)
    labels = {split_name: split.labels for split_name, split in raw.items()}
    refuse(find_label_problems(labels))
    names = labels["train"].names
    warn_of_missing_classes(labels, names=names)
    splits = {split_name: _shape(split, split_name, names=names) for split_name, split in raw.items()}
    if "validation" not in splits:
        splits |= _cut_validation(splits["train"], args)
    if "test" not in splits:
        logger.info("no test split: only validation is scored")
    ordered = [name for name in SPLIT_ALIASES if name in splits]
    return datasets.DatasetDict({name: _select(splits[name], name, args=args, source=source) for name in ordered})


def load_split(args: DataArguments, *, split: str | None, class_names: Sequence[str]) -> tuple[str, datasets.Dataset]:
    """Return one split for a model to be scored on, its labels aligned to the model's by name.

    Args:
        args: The data; a validation split that they lack is cut from train exactly as `load_splits` does.
        split: ``train``, ``validation``, ``test`` or ``all``; without one, the first there is of test,
            validation, all.
        class_names: The model's, in its order. Those that the data lack do no harm.

    Returns:
        The name of the split, and its rows in the shape of `load_splits`; in ``all``, `index` counts through
        the splits.

    Raises:
        PipelineError: If there is no such split, the model does not know a class, or the data cannot be used.
    """
    if args.streaming:
        raise PipelineError("--streaming is for training: what is scored is fetched whole; leave it out.")
    source, found = _read(args)
    raw = _with_labels(found)
    name = split or next((name for name in ("test", "validation") if name in raw), ALL)
    cuts = name in ("train", "validation") and "train" in raw and "validation" not in raw
    chosen = raw if name == ALL else {key: raw[key] for key in ("train" if cuts else name,) if key in raw}
    if not chosen:
        raise PipelineError(f"{args.dataset_name}: no {name} split; pass --split {' or '.join([*raw, ALL])}.")
    unknown = {label: None for part in chosen.values() for label in part.labels.used if label not in class_names}
    if unknown:
        raise PipelineError(
            f"{name}: the model does not know {list_some(list(unknown))}; it knows {list_some(class_names)}."
        )
    shaped, start = [], 0
    for key, part in chosen.items():
        shaped.append(_shape(part, key, names=class_names, start=start))
        start += len(part.images)
    rows = _cut_validation(shaped[0], args)[name] if cuts else datasets.concatenate_datasets(shaped)
    return name, _select(rows, name, args=args, source=source)


def fingerprint(splits: datasets.DatasetDict) -> str:
    """Return a short hash: splits, class names, and each row's label, index, file name and size.

    It is the same wherever the files lie, and changes when an image is added, removed, relabelled or
    changed in size. Pixels are not read.
    """
    digest = hashlib.sha256()
    for split_name, split in splits.items():
        digest.update(repr((split_name, split.features["label"].names)).encode())
        if isinstance(split, Stream):
            digest.update(f"{split.identity} {len(split)}".encode())
            continue
        for column in ("label", "index"):
            digest.update(read_integers(split, column).astype("<i8").tobytes())
        for row, (name, size) in enumerate(_names_and_sizes(split)):  # not joined: that would be all names in memory
            digest.update((f"\n{name}\t{size}" if row else f"{name}\t{size}").encode())
    return digest.hexdigest()[:16]


def _load_streamed(args: DataArguments) -> datasets.DatasetDict:
    """Train as a stream, whose classes are those of its column, and the other splits whole."""
    name = _require_usable(args)
    if (kind := find_source_type(name)) != "a Hub data set":
        raise PipelineError(f"{name} is {kind}, here already: leave out --streaming.")
    train, others = open_stream(args)
    names = train.features["label"].names
    shaped: dict[str, Any] = {"train": train}
    for split_name, split in _with_labels(_take(others, args, kind=kind, follows_paths=False)).items():
        rows = _shape(split, split_name, names=names)
        shaped[split_name] = _select(rows, split_name, args=args, source=SOURCE_TYPES[kind])
    return datasets.DatasetDict(shaped)


def _read(args: DataArguments) -> tuple[SourceType, dict[str, _Raw]]:
    name = _require_usable(args)
    kind = find_source_type(name)
    source = SOURCE_TYPES[kind]
    found = name_splits(distributed.main_first(lambda: source.read(name, args)))
    return source, _take(found, args, kind=kind, follows_paths=source.follows_paths)


def _take(
    found: Mapping[str, datasets.Dataset], args: DataArguments, *, kind: str, follows_paths: bool
) -> dict[str, _Raw]:
    """Images and labels of splits, by the columns of the first one."""
    features = next(iter(found.values())).features
    columns = find_columns(features, image=args.image_column_name, label=args.label_column_name)
    logger.info("%s is read as %s: images in %r, labels in %r", args.dataset_name, kind, columns.image, columns.label)
    refuse(
        f"{split_name} has no column {columns.image!r}; it has: {', '.join(split.features)}."
        for split_name, split in found.items()
        if columns.image not in split.features
    )
    raw = {}
    for split_name, split in found.items():
        images = take_images(split, column=columns.image)
        if not follows_paths:
            require_bytes(images, split_name=split_name)
        raw[split_name] = _Raw(images, read_labels(split, column=columns.label))
    return raw


def _require_usable(args: DataArguments) -> str:
    """Return the name of the data, or refuse what no data could make good."""
    limits = {
        "--max_train_samples": args.max_train_samples,
        "--max_eval_samples": args.max_eval_samples,
        "--max_test_samples": args.max_test_samples,
    }
    problems = [
        f"{flag} {limit}: at least 1 is needed." for flag, limit in limits.items() if limit is not None and limit < 1
    ]
    if not 0 < args.validation_fraction < 1:
        problems.append(f"--validation_fraction {args.validation_fraction}: a share between 0 and 1 is needed.")
    if not args.dataset_name:
        problems.append("No data: pass --dataset_name FOLDER, a Hub id (OWNER/NAME), or synthetic-flowers.")
    refuse(problems)
    return args.dataset_name or ""


def _with_labels(found: Mapping[str, _Raw]) -> dict[str, _Raw]:
    """Return the splits without an unlabelled test split, which other projects publish for their contests."""
    labelled = {split_name: split for split_name, split in found.items() if split.labels.used}
    missing = [split_name for split_name in found if split_name not in labelled]
    refuse(f"{name} has no labels." for name in missing if name != "test" or not labelled)
    if missing:
        logger.warning("test has no labels and is not scored")
    return labelled


def _shape(split: _Raw, split_name: str, *, names: Sequence[str], start: int = 0) -> datasets.Dataset:
    """Return the labelled rows with their three columns."""
    labels = split.labels.aligned_to(names)
    # Columns first, rows after: a column added behind a selection would copy every image.
    rows = split.images.add_column("label", labels, feature=datasets.ClassLabel(names=list(names)))
    rows = rows.add_column("index", np.arange(start, start + len(labels)))
    if split.labels.num_unlabelled == 0:
        return rows
    count, total = split.labels.num_unlabelled, len(labels)
    logger.warning("%s: %d of %d rows have no label and are left out", split_name, count, total)
    return rows.select(np.flatnonzero(labels != UNLABELLED))


def _cut_validation(train: datasets.Dataset, args: DataArguments) -> dict[str, datasets.Dataset]:
    labels = read_integers(train)
    if len(lonely := classes_with_one_row(labels)):
        names = list_some([train.features["label"].names[label] for label in lonely])
        raise PipelineError(
            f"train is too small to split: one image only of {names}, and validation needs one of each.\n"
            "Add images, or a validation split."
        )
    kept, cut = hold_out_rows(labels, fraction=args.validation_fraction, seed=args.split_seed)
    logger.info("no validation split: %d of %d train images are cut for it", len(cut), len(labels))
    return {"train": train.select(kept), "validation": train.select(cut)}


def _select(split: datasets.Dataset, split_name: str, *, args: DataArguments, source: SourceType) -> datasets.Dataset:
    """Return the split within its limit, and without bad images."""
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples}
    limit = limits.get(split_name, args.max_test_samples)
    if limit is not None and limit < len(split):
        split = split.select(limit_rows(read_integers(split), limit=limit, seed=args.split_seed))
    if source.drawn_here:
        return split
    return check_images(split, policy=args.bad_images, split_name=split_name)


def _names_and_sizes(split: datasets.Dataset) -> Iterator[tuple[str, int]]:
    """Yield each image's file name, or nothing, and its size in bytes."""
    values = split.data.column("image")
    paths = pyarrow.compute.struct_field(values, "path")
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(values, "bytes"))
    if split._indices is not None:
        # No public way leads from the rows of a selection to those of its table but reading every image.
        chosen = split._indices.column(0)
        paths, sizes = paths.take(chosen), sizes.take(chosen)
    for start in range(0, len(paths), _ROWS):
        names, lengths = (column.slice(start, _ROWS).to_pylist() for column in (paths, sizes))
        for path, size in zip(names, lengths, strict=True):
            yield Path(path or "").name, Path(path).stat().st_size if size is None else size
