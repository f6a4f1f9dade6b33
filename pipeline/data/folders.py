"""What lies in a local folder or file -> its splits, as they are written there.

Owns the listing of class folders and the reading of CSV and Parquet files: which file belongs to which split,
and which files are images. It does not decide what columns and labels mean (`columns`, `labels`).
"""

import csv
import glob
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa

from pipeline.data.columns import find_image_column
from pipeline.data.images import IMAGE_EXTENSIONS, progress_on_terminal_only
from pipeline.data.labels import name_some
from pipeline.data.splits import split_of
from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)


def read_image_folder(root: Path) -> dict[str, datasets.Dataset]:
    """Return the images of class folders, with or without split folders above them.

    The ``imagefolder`` builder is not used: it takes split names for labels, and drops the labels of a tree
    of uneven depth. Here a class is the first folder below the split, and every image under it belongs to it.

    Raises:
        PipelineError: If there are no images, or none in a class folder, or a folder cannot be read.
    """
    try:
        splits = {name: _list_split(folder) for name, folder in _find_split_folders(root).items()}
    except OSError as error:
        raise PipelineError(f"{error.filename}: {error.strerror}.") from error
    except UnicodeEncodeError as error:
        raise PipelineError(f"{root}: a file name is not UTF-8: {error.object!r}.") from error
    if not any(len(split) for split in splits.values()):
        raise PipelineError(f"No images below {root} that end in {' '.join(sorted(IMAGE_EXTENSIONS))}.")
    for name, split in splits.items():
        # Test images without classes are a test split without labels, which is known further up.
        if split_of(name) != "test" and len(split) and split.data.column("label").null_count == len(split):
            raise PipelineError(
                f"{root}: the images of {name} lie in no class folders. "
                "Put each into a folder of its class, as in rose/1.jpg or train/rose/1.jpg."
            )
    return splits


def read_csv_files(source: Path, *, image_column: str | None) -> dict[str, datasets.Dataset]:
    """Return the rows of CSV files, all as text, with the image column as paths below the file's own folder.

    Raises:
        PipelineError: If a file is no CSV table, or its image column is not found or holds addresses.
    """
    return {
        name: datasets.concatenate_datasets([_read_csv(file, image_column=image_column) for file in files])
        for name, files in find_tables(source, ".csv").items()
    }


def read_parquet_files(source: Path) -> dict[str, datasets.Dataset]:
    """Return the rows of Parquet files, memory-mapped from the cache of `datasets`.

    Raises:
        PipelineError: If a file cannot be read, or those of one split differ in their columns.
    """
    splits = {}
    for name, files in find_tables(source, ".parquet").items():
        patterns = [glob.escape(str(file.absolute())) for file in files]
        try:
            # Split by split, so that a test split may lack the label column.
            with progress_on_terminal_only():
                splits[name] = datasets.load_dataset("parquet", data_files=patterns, split="train")
        except (pa.ArrowInvalid, datasets.exceptions.DatasetGenerationError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise PipelineError(f"{source}: {name} cannot be read as Parquet: {reason}") from error
    return splits


def find_tables(source: Path, extension: str) -> dict[str, list[Path]]:
    """Return the files of a kind by split: of the folder, else of its ``data`` folder, or one file.

    A split is told by its folder, or by the file name: ``train-00000-of-00002.parquet``, ``test.csv``.
    """
    if source.is_file():
        return {_split_in(source) or "train": [source]} if source.suffix.lower() == extension else {}
    for folder in (source, source / "data"):
        if not folder.is_dir():
            continue
        tables: dict[str | None, list[Path]] = defaultdict(list)
        for file in _files_with(folder, extension):
            tables[_split_in(file)].append(file)
        for split_folder in _visible_folders(folder):
            if split_of(split_folder.name) and (files := _files_with(split_folder, extension)):
                tables[split_folder.name] += files
        if tables:
            return _named_tables(tables)
    return {}


def _named_tables(tables: dict[str | None, list[Path]]) -> dict[str, list[Path]]:
    nameless = tables.get(None, [])
    named = {name: files for name, files in tables.items() if name is not None}
    if nameless and named:
        names = name_some([file.name for file in nameless])
        logger.warning("files left out, their names tell no split: %s", names)
    return named or {"train": nameless}


def _find_split_folders(root: Path) -> dict[str, Path]:
    """Return the split folders by name, or the root as the one split.

    ``train`` may also be a class, beside ``car`` and ``bus``: so where other folders stand beside it, it is
    a split only if it has class folders below it.
    """
    folders = _visible_folders(root)
    named = {folder.name: folder for folder in folders if split_of(folder.name)}
    if not named:
        return {"train": root}
    others = [folder.name for folder in folders if folder.name not in named]
    has_train = any(split_of(name) == "train" and _visible_folders(folder) for name, folder in named.items())
    if others and not has_train:
        return {"train": root}
    if others:
        logger.warning("%s: folders left out beside the splits: %s", root, name_some(others))
    return named


def _list_split(folder: Path) -> datasets.Dataset:
    paths: list[str] = []
    labels: list[str | None] = []
    skipped: Counter[str] = Counter()
    empty: list[str] = []
    for class_name, files in _class_folders(folder):
        images = [str(file) for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
        skipped.update(file.suffix for file in files if file.suffix.lower() not in IMAGE_EXTENSIONS)
        paths += images
        labels += [class_name] * len(images)
        if class_name is not None and not images:
            empty.append(class_name)
    if skipped:
        kinds = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in skipped.items())
        logger.warning("%s: files left out that are no images read here: %s", folder, kinds)
    if empty:
        logger.warning("%s: class folders without images are left out: %s", folder, name_some(empty))
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features)


def _class_folders(folder: Path) -> Iterator[tuple[str | None, list[Path]]]:
    """Yield each class with its files, then, without a class, the files that lie directly in the folder."""
    for class_folder in _visible_folders(folder):
        yield class_folder.name, list(_files_below(class_folder, above=frozenset()))
    yield None, [Path(entry.path) for entry in _visible(folder) if _is_file(entry)]


def _files_below(folder: Path, *, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the visible files below a folder in order, through links, but not round a loop of links."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _files_below(Path(entry.path), above=above | {identity})
        elif _is_file(entry):
            yield Path(entry.path)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:  # unlike iterdir, it knows folders from files without asking for each
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A link to nothing is kept, so that it is found and named as a bad image; a pipe would hang the reader.
    return entry.is_file() or (entry.is_symlink() and not entry.is_dir())


def _visible_folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _visible(folder) if entry.is_dir()]


def _files_with(folder: Path, extension: str) -> list[Path]:
    files = [Path(entry.path) for entry in _visible(folder) if entry.is_file()]
    return [file for file in files if file.suffix.lower() == extension]


def _split_in(file: Path) -> str | None:
    return next((word for word in re.split(r"[-_. ]", file.stem) if split_of(word)), None)


def _read_csv(file: Path, *, image_column: str | None) -> datasets.Dataset:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header, *rows = csv.reader(stream, skipinitialspace=True)
        columns = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    except (ValueError, csv.Error) as error:  # no header, rows of different lengths, not UTF-8
        raise PipelineError(f"{file}: not a CSV table in UTF-8: {error}.") from error
    text = datasets.Features({name: datasets.Value("string") for name in columns})
    try:
        image = find_image_column(text, named=image_column)
    except PipelineError as error:
        raise PipelineError(f"{file}: {error}\nA folder with CSV files is read from them.") from error
    if addresses := [path for path in columns[image] if "://" in path]:
        raise PipelineError(f"{file}: {len(addresses)} images are addresses, not files: {addresses[0]}")
    columns[image] = tuple(str(file.parent / path) if path else None for path in columns[image])
    features = datasets.Features({**text, image: datasets.Image(decode=False)})
    return datasets.Dataset.from_dict({name: list(cells) for name, cells in columns.items()}, features=features)
