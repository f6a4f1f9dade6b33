"""CSV and JSON files in a local folder or file: read their rows by split, with the paths of the image files.

Owns which row belongs to which split. `files` chooses the tables, `text` parses them and `image_paths` finds the
images.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa

from pipeline.data.columns import find_path_column
from pipeline.data.splits import canonical_split, find_split_word
from pipeline.data.tables.files import find_tables
from pipeline.data.tables.image_paths import ImageFolder
from pipeline.data.tables.one_hot import join_one_hot_columns
from pipeline.data.tables.text import read_rows
from pipeline.errors import PipelineError, list_some
from pipeline.progress import show_life

logger = logging.getLogger(__name__)

_SPLIT_COLUMNS = ("split", "splits", "subset", "set", "partition", "data_split", "dataset_split", "phase", "ml_use")


def read_text_files(
    source: Path, *, image_column: str | None, label_column: str | None, follow_paths: bool = False
) -> dict[str, datasets.Dataset]:
    """Read the rows of CSV files (every column as text) or JSON files.

    This includes what `datasets` calls an image folder with metadata: ``metadata.csv`` or ``metadata.jsonl`` with a
    column ``file_name``, inside the split folders or next to them.

    Args:
        source: A folder or a file.
        image_column: The value of `--image_column_name`; None finds the column.
        label_column: The value of `--label_column_name`; None finds the column, or one 0/1 column per class.
        follow_paths: Whether images outside of the folder may be read.

    Returns:
        Splits whose image column contains paths. Relative paths are resolved against the folder of the table.

    Raises:
        PipelineError: If a file is not a valid table, or its image column is missing, contains URLs, or leaves the
            folder.
    """
    parts: dict[str, list[datasets.Dataset]] = defaultdict(list)
    folders: dict[Path, ImageFolder] = {}
    listed: list[str | None] = []
    image = ""
    with show_life(lambda: f"reading {source}: {len(listed)} rows"):
        for name, files in find_tables(source).items():
            for file in files:
                folder = folders.setdefault(file.parent, ImageFolder(file.parent))
                rows, image = _read_text(file, image_column=image_column)
                split_in_name = find_split_word(file.stem)
                paths = folder.find(rows[image].to_pylist(), table=file, split=split_in_name)
                listed += paths
                split_names = _read_split_column(rows, file=file)
                if split_names is None and split_in_name is None:
                    split_names = _read_split_folders(paths, folder, default=name)
                for split_name, part in _group(_with_paths(rows, image, paths), split_names or name).items():
                    parts[split_name].append(_to_dataset(part, image))
    root = ImageFolder(source if source.is_dir() else source.parent)
    if not follow_paths:
        _require_inside(listed, root)
    root.warn_of_unlisted(listed, table_folders=folders)
    splits = {name: _concatenate(tables, source=source) for name, tables in parts.items()}
    return join_one_hot_columns(splits, image=image, label=label_column)


def _require_inside(paths: Sequence[str | None], root: ImageFolder) -> None:
    """Raise an error if a table lists an existing file outside of the folder: it may be a file of its reader."""
    outside = [path for path in paths if path and root.relative(path) is None and root.exists(path)]
    if outside:
        raise PipelineError(
            f"{len(outside)} images that the tables list are outside of {root.folder} (first: {outside[0]}): pass the "
            "folder that contains tables and images as --dataset_name, or add --follow_paths if you trust the tables"
        )


def _read_text(file: Path, *, image_column: str | None) -> tuple[pa.Table, str]:
    """Return the rows of a file and the name of its image column."""
    rows = read_rows(file)
    if null := next((name for name in rows.column_names if "\0" in name), None):
        raise PipelineError(f"{file}: the column name {null!r} contains a NUL character: save the table as UTF-8")
    try:
        image = find_path_column(rows, requested=image_column)
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
    if null := next((path for path in rows[image].to_pylist() if path and "\0" in path), None):
        raise PipelineError(f"{file}: the image path {null!r} contains a NUL character: save the table as UTF-8")
    return rows, image


def _read_split_column(rows: pa.Table, *, file: Path) -> list[str] | None:
    """Return the split of each row, if the table has a column such as ``split`` with names of splits."""
    for column in (name for name in rows.column_names if name.strip().lower() in _SPLIT_COLUMNS):
        values = [str(value).strip() for value in rows[column].to_pylist()]
        unknown = [value for value in dict.fromkeys(values) if canonical_split(value) is None]
        if values and not unknown:
            logger.info("%s: column %r assigns the rows to splits", file.name, column)
            return [canonical_split(value) or value for value in values]
        if len(unknown) < len(set(values)):
            raise PipelineError(
                f"{file}: column {column!r} assigns the rows to splits, but {list_some(unknown)} is not a split: "
                "write train, validation or test in each row, or rename the column"
            )
    return None


def _read_split_folders(paths: Sequence[str | None], folder: ImageFolder, *, default: str) -> list[str] | None:
    """Return the split of each row by the split folder, next to the table, that contains its image.

    Rows without an image file belong to the default split. If another image is not in a split folder, all rows do.
    """
    first = [(folder.relative(path) or "").partition("/")[0] if path else "" for path in paths]
    inside = [name for name in dict.fromkeys(first) if canonical_split(name)]
    outside = sum(
        bool(path and name not in inside and folder.exists(path)) for path, name in zip(paths, first, strict=True)
    )
    if outside and any(canonical_split(name) != canonical_split(default) for name in inside):
        logger.warning(
            "%s/: %d of %d images are not in one of the split folders %s; using all images as %s",
            folder.folder,
            outside,
            len(paths),
            list_some(inside),
            default,
        )
    if outside or not inside:
        return None
    default = next((name for name in inside if canonical_split(name) == canonical_split(default)), default)
    return [name if name in inside else default for name in first]


def _group(rows: pa.Table, split_names: list[str] | str) -> dict[str, pa.Table]:
    if isinstance(split_names, str):
        return {split_names: rows}
    return {
        name: rows.filter(pa.array([split == name for split in split_names], pa.bool_()))
        for name in dict.fromkeys(split_names)
    }


def _with_paths(rows: pa.Table, image: str, paths: Sequence[str | None]) -> pa.Table:
    """Return the rows with these paths in the image column."""
    try:
        texts = pa.array(paths, pa.string())
    except UnicodeEncodeError as error:
        raise PipelineError(f"the file name {error.object!r} is not valid UTF-8: rename the file") from error
    values = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), texts], ["bytes", "path"])
    return rows.set_column(rows.column_names.index(image), image, values)


def _to_dataset(rows: pa.Table, image: str) -> datasets.Dataset:
    features = datasets.Features.from_arrow_schema(rows.schema) | {image: datasets.Image(decode=False)}
    return datasets.Dataset(rows, info=datasets.DatasetInfo(features=datasets.Features(features)))


def _concatenate(tables: Sequence[datasets.Dataset], *, source: Path) -> datasets.Dataset:
    """Return the rows of all parts of a split."""
    if len({frozenset(table.column_names) for table in tables}) > 1:
        columns = "; ".join(dict.fromkeys(", ".join(table.column_names) for table in tables))
        raise PipelineError(f"{source}: the parts of a table have different columns ({columns}): use the same columns")
    try:
        return datasets.concatenate_datasets(list(tables))
    except ValueError as error:
        raise PipelineError(f"{source}: the tables have different column types: {error}") from error
