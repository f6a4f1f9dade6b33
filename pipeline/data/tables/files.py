"""Table files: choose the files of a dataset that contain its labels, and assign them to splits.

Owns which files are tables, which of them are never merged, and which are ignored. `text` and `read` read them.
"""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.splits import canonical_split, find_split_word, reject_misspelled_splits
from pipeline.errors import PipelineError, list_some, raise_problems
from pipeline.images.decode import IMAGE_EXTENSIONS
from pipeline.images.files import device_and_inode, is_folder, list_files, list_visible, list_visible_folders

logger = logging.getLogger(__name__)

EXTENSIONS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")  # the first one found is read
_JSON_START = 65536  # this many characters show whether a .json file can be a table
JSON_REMEDY = (
    "convert it to a CSV file, or to a JSON array with one flat object for each image, for example "
    '[{"image": "1.jpg", "label": "rose"}]'
)
# part-00000-of-00002 and the names of Spark (part-00000-UUID-c000.snappy). The number identifies the shard.
_SHARD = re.compile(
    r"(?P<name>.*?)(?P<number>\d+)"
    r"(?:-of-(?P<total>\d+)(?:-[0-9a-f]{8,})?|-[0-9a-f]{8}-[0-9a-f-]{27}(?:-c\d+)?(?:\.\w+)?)?"
)
_VERSION = re.compile(r"(^|[^a-z])(v|ver|version|rev|copy|fold|run)[-_. ]?$", re.IGNORECASE)  # labels_v1 is not a shard


@dataclass
class _Candidates:
    """The tables of a folder, by extension and split name (None: the name says no split)."""

    folder: Path
    tables: dict[str, dict[str | None, list[Path]]] = field(default_factory=lambda: defaultdict(_lists))
    submissions: list[Path] = field(default_factory=list)

    @property
    def extension(self) -> str | None:
        """The extension that is read: tables of a train split come before other tables."""
        return min(self.tables, key=lambda key: (not _has_train(self.tables[key]), EXTENSIONS.index(key)), default=None)

    def add(self, file: Path, *, split: str | None) -> None:
        # A Kaggle competition publishes a sample of the file to submit. Its labels are placeholders.
        if "submission" in file.stem.lower():
            self.submissions.append(file)
        else:
            self.tables[file.suffix.lower()][split].append(file)


def find_extension(source: Path) -> str | None:
    """Return the extension of the tables of a dataset, or None if it is not stored in tables.

    Raises:
        PipelineError: If the source is a .json file that is not a table.
    """
    return _find_candidates(source).extension


def find_tables(source: Path) -> dict[str, list[Path]]:
    """Return the table files that are read, by split name. Log them, and the tables that are ignored.

    The source is a file, or a folder with tables in it, in its ``data`` subfolder or in its only subfolder. The split
    name is the name of a split folder, or a word of the file name: ``train-00000-of-00002.parquet``, ``test.csv``.

    Raises:
        PipelineError: If a split name is misspelled, or it is not clear which of several tables contains the labels.
    """
    candidates = _find_candidates(source)
    extension = candidates.extension
    if extension is None:
        return {}
    tables = candidates.tables[extension]
    if source.is_dir():
        _reject_misspelled(tables, extension, folder=candidates.folder)
    without_split = tables.get(None, [])
    by_split = {name: files for name, files in tables.items() if name is not None}
    if without_split and by_split and not _has_train(tables):
        raise PipelineError(
            f"{candidates.folder}: no table is named like train, only {_names(without_split)} and "
            f"{_names([file for files in by_split.values() for file in files])}: "
            f"pass one of them (--dataset_name {without_split[0]}), or rename the table of the training images to "
            f"train{extension}"
        )
    chosen = by_split or {"train": without_split}
    raise_problems(_find_unclear_tables(chosen))
    for files in chosen.values():
        _warn_of_missing_shards(files)
    if without_split and by_split:
        logger.warning("ignoring files whose names match no split: %s", _names(without_split))
    _warn_of_other_tables(candidates, read=extension)
    logger.info("reading %s", "; ".join(f"{name} from {_names(files)}" for name, files in chosen.items()))
    return chosen


def has_class_folders(folder: Path) -> bool:
    """Return whether images are in at least two folders that are not split folders."""
    subfolders = list_visible_folders(folder)
    inner = [sub for split in subfolders if canonical_split(split.name) for sub in list_visible_folders(split)]
    classes = (sub for sub in [*subfolders, *inner] if not canonical_split(sub.name))
    with_images = (sub.name for sub in classes if contains_images(sub))
    return next(with_images, None) is not None and next(with_images, None) is not None


def contains_images(folder: Path) -> bool:
    """Return whether an image is anywhere below a folder."""
    return any(file.suffix.lower() in IMAGE_EXTENSIONS for file in list_files(folder))


def is_json_table(file: Path) -> bool:
    """Return whether a .json file starts like an array of objects, or like JSON lines."""
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        start = stream.read(_JSON_START).lstrip()
    if start.startswith("["):
        return start[1:].lstrip().startswith("{")
    try:
        first = json.loads(start.partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and not any(isinstance(value, dict | list) for value in first.values())


def _find_candidates(source: Path) -> _Candidates:
    if source.is_file():
        candidates = _Candidates(source.parent)
        if source.suffix.lower() == ".json" and not is_json_table(source):
            raise PipelineError(f"{source} is not a table: {JSON_REMEDY}")
        if source.suffix.lower() in EXTENSIONS:
            candidates.tables[source.suffix.lower()][find_split_word(source.stem) or "train"].append(source)
        return candidates
    for folder in _table_folders(source):
        candidates = _Candidates(folder)
        for file in _tables_in(folder):
            candidates.add(file, split=find_split_word(file.stem))
        for split_folder in list_visible_folders(folder):
            if canonical_split(split_folder.name):
                for file in _tables_in(split_folder):
                    candidates.add(file, split=split_folder.name)
        # A .json file is often something else, such as a list of downloads, so class folders take precedence.
        if candidates.extension and not (candidates.extension == ".json" and has_class_folders(folder)):
            return candidates
    return _Candidates(source)


def _table_folders(source: Path) -> Iterator[Path]:
    """Yield the folders in which tables are looked for: also the subfolder ``data``, or the only subfolder."""
    if not source.is_dir():
        return
    yield source
    if (source / "data").is_dir():
        yield source / "data"
    seen = set()
    while (identity := device_and_inode(source)) not in seen:  # a link can lead back to a wrapper
        seen.add(identity)
        entries = list_visible(source)
        if len(entries) != 1 or not is_folder(entries[0]):
            return
        source = Path(entries[0].path)
        yield source


def _tables_in(folder: Path) -> list[Path]:
    names = [entry for entry in list_visible(folder) if entry.name.lower().endswith(EXTENSIONS)]
    files = [Path(entry.path) for entry in names if entry.is_file()]
    return [file for file in files if file.suffix.lower() != ".json" or is_json_table(file)]


def _reject_misspelled(tables: Mapping[str | None, list[Path]], extension: str, *, folder: Path) -> None:
    others = [
        sub.name
        for sub in list_visible_folders(folder)
        if not canonical_split(sub.name) and any(file.suffix.lower() == extension for file in _tables_in(sub))
    ]
    split_names = [name for name in tables if name is not None]
    reject_misspelled_splits(
        [*(file.name for file in tables.get(None, [])), *others], split_names=split_names, folder=folder
    )


def _find_unclear_tables(by_split: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """Yield a problem for each split with several tables that are not the shards of one table.

    Two tables are never merged because their names seem to allow it: one of them can be an older version of the
    other, or contain placeholder labels.
    """
    for name, files in by_split.items():
        if len(files) > 1 and not _are_shards(files):
            yield (
                f"{files[0].parent}: it is not clear which table contains the labels of {name}: {_names(files)}: "
                f"pass one of them (--dataset_name {files[0]}) or move the others elsewhere; "
                f"parts of one table must be numbered (part-0{files[0].suffix}, part-1{files[0].suffix})"
            )


def _are_shards(files: Sequence[Path]) -> bool:
    """Return whether the names differ only in a number that counts from 0 or 1, or say ``-of-00002``."""
    shards = [_SHARD.fullmatch(file.stem) for file in files]
    if (
        len(
            {
                (file.parent, shard and (shard["name"], shard["total"]))
                for file, shard in zip(files, shards, strict=True)
            }
        )
        > 1
    ):
        return False
    numbers = sorted(int(shard["number"]) for shard in shards if shard)
    if len(set(numbers)) < len(files) or shards[0] is None or _VERSION.search(shards[0]["name"]):
        return False
    return shards[0]["total"] is not None or (numbers[0] < 2 and numbers[-1] - numbers[0] == len(files) - 1)


def _warn_of_missing_shards(files: Sequence[Path]) -> None:
    shard = _SHARD.fullmatch(files[0].stem)
    if shard and shard["total"] and int(shard["total"]) > len(files):
        logger.warning(
            "%s: only %d of %s shards are there: %s", files[0].parent, len(files), int(shard["total"]), _names(files)
        )


def _warn_of_other_tables(candidates: _Candidates, *, read: str) -> None:
    others = [
        file
        for extension, tables in candidates.tables.items()
        for files in tables.values()
        for file in files
        if extension != read
    ]
    if others:
        logger.warning("ignoring tables of another type than %s: %s", read, _names(others))
    if candidates.submissions:
        logger.warning("ignoring tables with placeholder labels to submit: %s", _names(candidates.submissions))


def _has_train(tables: Mapping[str | None, object]) -> bool:
    return any(name is not None and canonical_split(name) == "train" for name in tables)


def _lists() -> dict[str | None, list[Path]]:
    return defaultdict(list)


def _names(files: Sequence[Path]) -> str:
    return list_some([file.name for file in files])
