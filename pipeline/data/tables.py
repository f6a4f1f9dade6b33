"""Tables in a local folder or file: read their rows by split.

Owns the reading of CSV, JSON lines and Parquet files: which file and which row belongs to which split, and where the
image files of a row are. `columns` and `labels` interpret the columns.
"""

import csv
import glob
import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.dataset
import pyarrow.json

from pipeline.data.columns import find_image_column
from pipeline.data.splits import canonical_split, find_split_word, reject_misspelled_splits
from pipeline.errors import PipelineError, list_some
from pipeline.images.files import list_visible, list_visible_folders
from pipeline.progress import progress_on_terminal_only

logger = logging.getLogger(__name__)


def read_text_files(source: Path, extension: str, *, image_column: str | None) -> dict[str, datasets.Dataset]:
    """Read the rows of .csv files (every column as text) or .jsonl files.

    This includes what `datasets` calls an image folder with metadata: ``metadata.csv`` or ``metadata.jsonl`` with a
    column ``file_name``, inside the split folders or next to them.

    Args:
        source: A folder or a file.
        extension: ``.csv`` or ``.jsonl``.
        image_column: The value of `--image_column_name`; None finds the column.

    Returns:
        Splits whose image column contains paths. Relative paths are resolved against the folder of the table.

    Raises:
        PipelineError: If a file is not a valid table, or its image column is missing or contains URLs.
    """
    parts: dict[str, list[datasets.Dataset]] = defaultdict(list)
    for name, files in find_tables(source, extension).items():
        for file in files:
            rows, image = _read_text(file, image_column=image_column)
            if find_split_word(file.stem) is None:
                rows_by_split = _group_by_split_folder(rows, image, default=name)
            else:
                rows_by_split = {name: rows}
            for split_name, part in rows_by_split.items():
                parts[split_name].append(_resolve_paths(part, image, folder=file.parent))
    try:
        return {name: datasets.concatenate_datasets(tables) for name, tables in parts.items()}
    except ValueError as error:
        raise PipelineError(f"{source}: the {extension} files have different column types: {error}") from error


def read_parquet_files(source: Path) -> dict[str, datasets.Dataset]:
    """Read the rows of Parquet files by split, memory-mapped from the cache of `datasets`.

    Raises:
        PipelineError: If a file cannot be read, or the files of a split have different columns.
    """
    splits = {}
    scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)  # True keeps complete files in memory
    for name, files in find_tables(source, ".parquet").items():
        patterns = [glob.escape(str(file.absolute())) for file in files]
        try:
            # Each split is loaded separately, so that a test split can lack the label column.
            with progress_on_terminal_only():
                splits[name] = datasets.load_dataset(
                    "parquet", data_files=patterns, split="train", fragment_scan_options=scan_options
                )
        except (pa.ArrowInvalid, datasets.exceptions.DatasetGenerationError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise PipelineError(f"{source}: the Parquet files of {name} cannot be read: {reason}") from error
    return splits


def find_tables(source: Path, extension: str) -> dict[str, list[Path]]:
    """Return the table files with an extension, grouped by split name.

    The source is a file, or a folder with tables in it or in its ``data`` subfolder. The split name is the name of a
    split folder, or a word of the file name: ``train-00000-of-00002.parquet``, ``test.csv``.
    """
    if source.is_file():
        return {find_split_word(source.stem) or "train": [source]} if source.suffix.lower() == extension else {}
    for folder in (source, source / "data"):
        if not folder.is_dir():
            continue
        tables: dict[str | None, list[Path]] = defaultdict(list)
        for file in _files_with(folder, extension):
            tables[find_split_word(file.stem)].append(file)
        subfolders = list_visible_folders(folder)
        for split_folder in subfolders:
            if canonical_split(split_folder.name) and (files := _files_with(split_folder, extension)):
                tables[split_folder.name] += files
        if tables:
            others = [sub.name for sub in subfolders if not canonical_split(sub.name) and _files_with(sub, extension)]
            return _require_split_names(tables, other_folders=others, folder=folder)
    return {}


def _require_split_names(
    tables: dict[str | None, list[Path]], *, other_folders: list[str], folder: Path
) -> dict[str, list[Path]]:
    """Return the tables with a split name, or all tables as train if none has a split name."""
    without_split = [file.name for file in tables.get(None, [])]
    by_split = {name: files for name, files in tables.items() if name is not None}
    reject_misspelled_splits([*without_split, *other_folders], split_names=by_split, folder=folder)
    if without_split and by_split:
        logger.warning("ignoring files whose names match no split: %s", list_some(without_split))
    return by_split or {"train": tables[None]}


def _files_with(folder: Path, extension: str) -> list[Path]:
    files = [Path(entry.path) for entry in list_visible(folder)]
    return [file for file in files if file.suffix.lower() == extension and file.is_file()]


def _read_text(file: Path, *, image_column: str | None) -> tuple[pa.Table, str]:
    """Return the rows of a file and the name of its image column."""
    format_name, read = _READERS[file.suffix.lower()]
    try:
        rows = read(file)
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:  # no header, rows of different lengths, not UTF-8
        raise PipelineError(f"{file} is not a valid {format_name} table in UTF-8: {error}") from error
    try:
        image = find_image_column(datasets.Features.from_arrow_schema(rows.schema), requested=image_column)
    except PipelineError as error:
        raise PipelineError(
            f"{file}: {error}\nto read the folder as class folders instead, move its {file.suffix} files elsewhere"
        ) from error
    if not pa.types.is_string(rows.schema.field(image).type):
        raise PipelineError(f"{file}: column {image} does not contain image paths: pass --image_column_name")
    if urls := [path for path in rows[image].to_pylist() if path and "://" in path]:
        raise PipelineError(
            f"{file}: {len(urls)} images are URLs, not local files (first: {urls[0]}): "
            "download them and list their paths instead"
        )
    return rows, image


def _read_csv(file: Path) -> pa.Table:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        header, *rows = csv.reader(stream, skipinitialspace=True)
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(header, cells, strict=True)})


def _read_json_lines(file: Path) -> pa.Table:
    rows = pyarrow.json.read_json(file)
    rows.validate(full=True)  # Arrow does not check by default that text is valid UTF-8
    return rows


_READERS: dict[str, tuple[str, Callable[[Path], pa.Table]]] = {
    ".csv": ("CSV", _read_csv),
    ".jsonl": ("JSON lines", _read_json_lines),
}


def _group_by_split_folder(rows: pa.Table, image: str, *, default: str) -> dict[str, pa.Table]:
    """Group the rows by the split folder at the start of each image path.

    If one of the paths does not start with a split folder, all rows belong to the default split.
    """
    folders = [next(iter(Path(path).parts), "") if path else default for path in rows[image].to_pylist()]
    names = dict.fromkeys(folders)
    if not names or not all(canonical_split(name) for name in names):
        return {default: rows}
    return {name: rows.filter(pa.array([folder == name for folder in folders], pa.bool_())) for name in names}


def _resolve_paths(rows: pa.Table, image: str, *, folder: Path) -> datasets.Dataset:
    """Return the rows with the paths of the image column resolved against the folder of the table."""
    paths = [str(folder / path) if path else None for path in rows[image].to_pylist()]
    values = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"]
    )
    features = datasets.Features.from_arrow_schema(rows.schema) | {image: datasets.Image(decode=False)}
    table = rows.set_column(rows.column_names.index(image), image, values)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=datasets.Features(features)))
