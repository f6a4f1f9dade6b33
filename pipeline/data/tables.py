"""Tables in a local folder or file -> their rows by split, as they are written there.

Owns the reading of CSV, JSON lines and Parquet: which file, and which row, belongs to which split, and where
the images lie that a row names. It does not decide what columns and labels mean (`columns`, `labels`).
"""

import csv
import glob
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.dataset
import pyarrow.json

from pipeline.data.columns import find_image_column
from pipeline.data.folders import visible, visible_folders
from pipeline.data.splits import reject_misspelled, split_of, split_within
from pipeline.distributed import progress_on_terminal_only
from pipeline.errors import PipelineError, list_some

logger = logging.getLogger(__name__)


def read_text_files(source: Path, extension: str, *, image_column: str | None) -> dict[str, datasets.Dataset]:
    """Return the rows of .csv (all as text) or .jsonl files, with the image column as paths below the file's folder.

    This reads what `datasets` calls an image folder with metadata: ``metadata.csv`` or ``metadata.jsonl`` with a
    column ``file_name``, inside the split folders or beside them.

    Raises:
        PipelineError: If a file is no such table, or its image column is not found or holds addresses.
    """
    parts: dict[str, list[datasets.Dataset]] = defaultdict(list)
    for name, files in find_tables(source, extension).items():
        for file in files:
            rows, image = _read_text(file, image_column=image_column)
            for split_name, part in _by_folder(rows, image, otherwise=name, told=split_within(file.stem) is not None):
                parts[split_name].append(_with_paths(part, image, folder=file.parent))
    try:
        return {name: datasets.concatenate_datasets(tables) for name, tables in parts.items()}
    except ValueError as error:
        raise PipelineError(f"{source}: {extension} files differ in the types of their columns: {error}") from error


def read_parquet_files(source: Path) -> dict[str, datasets.Dataset]:
    """Return the rows of Parquet files, memory-mapped from the cache of `datasets`.

    Raises:
        PipelineError: If a file cannot be read, or those of one split differ in their columns.
    """
    splits = {}
    piecewise = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)  # else all of a file is held
    for name, files in find_tables(source, ".parquet").items():
        patterns = [glob.escape(str(file.absolute())) for file in files]
        try:
            # Split by split, so that a test split may lack the label column.
            with progress_on_terminal_only():
                splits[name] = datasets.load_dataset(
                    "parquet", data_files=patterns, split="train", fragment_scan_options=piecewise
                )
        except (pa.ArrowInvalid, datasets.exceptions.DatasetGenerationError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise PipelineError(f"{source}: {name} cannot be read as Parquet: {reason}") from error
    return splits


def find_tables(source: Path, extension: str) -> dict[str, list[Path]]:
    """Return the files of a kind by split: of the folder, else of its ``data`` folder, or one file.

    A split is told by its folder, or by the file name: ``train-00000-of-00002.parquet``, ``test.csv``.
    """
    if source.is_file():
        return {split_within(source.stem) or "train": [source]} if source.suffix.lower() == extension else {}
    for folder in (source, source / "data"):
        if not folder.is_dir():
            continue
        tables: dict[str | None, list[Path]] = defaultdict(list)
        for file in _files_with(folder, extension):
            tables[split_within(file.stem)].append(file)
        subfolders = visible_folders(folder)
        for split_folder in subfolders:
            if split_of(split_folder.name) and (files := _files_with(split_folder, extension)):
                tables[split_folder.name] += files
        if tables:
            others = [sub.name for sub in subfolders if not split_of(sub.name) and _files_with(sub, extension)]
            return _named_tables(tables, others=others, folder=folder)
    return {}


def _named_tables(tables: dict[str | None, list[Path]], *, others: list[str], folder: Path) -> dict[str, list[Path]]:
    nameless = [file.name for file in tables.get(None, [])]
    named = {name: files for name, files in tables.items() if name is not None}
    reject_misspelled([*nameless, *others], taken=named, where=folder)
    if nameless and named:
        logger.warning("files left out, their names tell no split: %s", list_some(nameless))
    return named or {"train": tables[None]}


def _files_with(folder: Path, extension: str) -> list[Path]:
    files = [Path(entry.path) for entry in visible(folder)]
    return [file for file in files if file.suffix.lower() == extension and file.is_file()]


def _read_text(file: Path, *, image_column: str | None) -> tuple[pa.Table, str]:
    """Return the rows of a file, and which column names their images."""
    kind, read = _READERS[file.suffix.lower()]
    try:
        rows = read(file)
    except OSError as error:
        raise PipelineError(f"{file}: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:  # no header, rows of different lengths, not UTF-8
        raise PipelineError(f"{file}: not a {kind} table in UTF-8: {error}.") from error
    try:
        image = find_image_column(datasets.Features.from_arrow_schema(rows.schema), named=image_column)
    except PipelineError as error:
        raise PipelineError(f"{file}: {error}\nA folder with {file.suffix} files is read from them.") from error
    if not pa.types.is_string(rows.schema.field(image).type):
        raise PipelineError(f"{file}: column {image} holds no paths of images.")
    if addresses := [path for path in rows[image].to_pylist() if path and "://" in path]:
        raise PipelineError(f"{file}: {len(addresses)} images are addresses, not files: {addresses[0]}")
    return rows, image


def _read_csv(file: Path) -> pa.Table:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        header, *rows = csv.reader(stream, skipinitialspace=True)
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(header, cells, strict=True)})


def _read_json_lines(file: Path) -> pa.Table:
    rows = pyarrow.json.read_json(file)
    rows.validate(full=True)  # Arrow takes text on trust
    return rows


_READERS: dict[str, tuple[str, Callable[[Path], pa.Table]]] = {
    ".csv": ("CSV", _read_csv),
    ".jsonl": ("JSON lines", _read_json_lines),
}


def _by_folder(rows: pa.Table, image: str, *, otherwise: str, told: bool) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows by the split folder that each path begins with, if all do, and no name has told the split."""
    folders = [next(iter(Path(path).parts), "") if path else otherwise for path in rows[image].to_pylist()]
    names = dict.fromkeys(folders)
    if told or not names or not all(split_of(name) for name in names):
        yield otherwise, rows
        return
    for name in names:
        yield name, rows.filter(pa.array([folder == name for folder in folders], pa.bool_()))


def _with_paths(rows: pa.Table, image: str, *, folder: Path) -> datasets.Dataset:
    """Return the rows with paths in the image column that lead from here."""
    paths = [str(folder / path) if path else None for path in rows[image].to_pylist()]
    values = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"]
    )
    features = datasets.Features.from_arrow_schema(rows.schema) | {image: datasets.Image(decode=False)}
    table = rows.set_column(rows.column_names.index(image), image, values)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=datasets.Features(features)))
