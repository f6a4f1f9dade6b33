"""Columns of a table: find the image column and the label column, and bring the image column into one format.

Owns the usual column names, and the check that Parquet files and Hub datasets embed the bytes of their images.
`labels` reads the labels, and the `images` package decodes the images.
"""

import logging
import re
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute

from pipeline.errors import PipelineError, did_you_mean
from pipeline.images.decode import IMAGE_EXTENSIONS

logger = logging.getLogger(__name__)

# Column names to try when the column type is ambiguous, as `_normalize` writes them.
_IMAGE_NAMES = (
    *("image", "images", "img", "pixel_values", "file_name", "filename", "file"),
    *("image_path", "img_path", "filepath", "file_path", "path"),
)
# Columns of tables that can contain names of images, mostly without extension. The first group that is there is used.
_IMAGE_ID_NAMES = (
    ("image_id", "imageid", "img_id", "image_name", "imagename", "img_name", "isic_id", "photo", "picture", "photo_id"),
    ("id", "id_code"),
)
# For labels, the first name in this list wins.
_LABEL_NAMES = (
    *("label", "labels", "class", "target", "fine_label", "category", "cls"),
    *("class_name", "label_name", "species", "classname", "labelname", "category_name", "class_label", "classes"),
    *("breed", "diagnosis", "dx", "choice", "tag", "annotation", "class_id", "label_id", "category_id"),
)
# A single other column with one of these names contains no labels.
_NEVER_LABELS = ("id", "index", "url", "uri", "caption", "text", "description", "prompt", "split", "width", "height")
_UNNAMED = "unnamed"  # how pandas and `tables.text` name a column without a name
_NUM_INSPECTED = 1000  # rows whose values show whether a column contains image paths
_IMAGE_PATH = rf"(?i)^[^:]*(:[\\/][^:]*)?({'|'.join(map(re.escape, sorted(IMAGE_EXTENSIONS)))})\s*$"


@dataclass(frozen=True)
class Columns:
    """The names of the image column, of the label column, and of all other columns, which are ignored."""

    image: str
    label: str
    ignored: tuple[str, ...]


def find_columns(features: datasets.Features, *, image: str | None, label: str | None) -> Columns:
    """Return the requested columns, or find them by type and name.

    Args:
        features: The columns of the table and their types.
        image: The value of `--image_column_name`; None finds the column.
        label: The value of `--label_column_name`; None finds the column.

    Raises:
        PipelineError: If a requested column is missing, or not exactly one column qualifies.
    """
    image = find_image_column(features, requested=image)
    label = _find_label_column(features, requested=label, image=image)
    return Columns(image, label, tuple(name for name in features if name not in (image, label)))


def find_image_column(features: datasets.Features, *, requested: str | None) -> str:
    """Return the requested image column, or find it by type and name.

    Raises:
        PipelineError: If the requested column is missing or does not contain images, or not exactly one column
            qualifies.
    """
    if requested is not None:
        _require_column(features, requested, flag="--image_column_name")
        feature = features[requested]
        if not (_is_image(feature) or _is_bytes(feature) or _is_text(feature)):
            raise PipelineError(
                f"--image_column_name {requested}: the column contains {feature}, not images: pass another column"
            )
        return requested
    columns: dict[str, Any] = dict(features)
    candidates_by_type = (
        [name for name, feature in columns.items() if _is_image(feature)],
        [name for name, feature in columns.items() if _is_bytes(feature)],
        [name for name, feature in columns.items() if _is_text(feature) and _normalize(name) in _IMAGE_NAMES],
    )
    found = next((candidates for candidates in candidates_by_type if candidates), [])
    if len(found) > 1:
        raise PipelineError(f"several columns contain images ({', '.join(found)}): pass --image_column_name")
    if not found:
        raise PipelineError(f"no image column found among the columns {_join(features)}: pass --image_column_name")
    return found[0]


def find_path_column(rows: pa.Table, *, requested: str | None) -> str:
    """Return the requested column with image paths or names, or find it by name, then by the values.

    Raises:
        PipelineError: If the requested column is missing, or not exactly one column qualifies.
    """
    features = datasets.Features.from_arrow_schema(rows.schema)
    text: list[str] = [name for name, feature in features.items() if _is_text(feature)]
    if requested is not None or not text:
        return find_image_column(features, requested=requested)
    with_paths = [name for name in text if _contains_paths(rows[name])]
    groups: list[list[str]] = [
        [name for name in text if _normalize(name) in group] for group in (_IMAGE_NAMES, *_IMAGE_ID_NAMES)
    ]
    for candidates in (groups[0], with_paths, *groups[1:]):
        chosen = [name for name in candidates if name in with_paths] if len(candidates) > 1 else candidates
        if len(chosen) == 1:
            return chosen[0]
        if candidates:
            break
    return find_image_column(features, requested=None)


def has_label_column(features: datasets.Features, *, image: str) -> bool:
    """Return whether a column is a label column by its type or name."""
    others = {name: feature for name, feature in features.items() if name != image}
    return any(_is_class_label(feature) or _normalize(name) in _LABEL_NAMES for name, feature in others.items())


def select_images(split: datasets.Dataset, *, column: str) -> datasets.Dataset:
    """Return only the image column, renamed to ``image``, as undecoded bytes and paths."""
    images = _without_empty_blocks(split.select_columns([column]))
    if column != "image":
        images = images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(decode=False))


def require_bytes(images: datasets.Dataset, *, split_name: str) -> None:
    """Raise an error if an image is stored as a path without bytes.

    Following such a path would let the author of the table choose which files on this machine are read.

    Raises:
        PipelineError: If an image has a path but no bytes.
    """
    values = images.data.column("image")
    contents = pyarrow.compute.struct_field(values, "bytes")
    paths = pyarrow.compute.struct_field(values, "path")
    only_path = pyarrow.compute.and_(pyarrow.compute.is_null(contents), pyarrow.compute.is_valid(paths))
    rows = pyarrow.compute.indices_nonzero(only_path)
    if len(rows):
        raise PipelineError(
            f"{split_name}: {len(rows)} images are paths without bytes (row {rows[0]}: {paths[rows[0].as_py()]}); "
            "paths in Parquet files and Hub datasets are not followed:\n"
            "embed the images in the dataset, or use a CSV file or class folders"
        )


def _without_empty_blocks(images: datasets.Dataset) -> datasets.Dataset:
    """Return the dataset without the blocks that `select_columns` has emptied, which `add_column` cannot read.

    The labels of a one-hot table are such a block next to the memory-mapped images.
    """
    table = images.data
    blocks = table.blocks if isinstance(table, datasets.table.ConcatenationTable) else []
    if all(block.num_columns for row in blocks for block in row):
        return images
    filled = datasets.table.ConcatenationTable.from_blocks(
        [[block for block in row if block.num_columns] for row in blocks]
    )
    return datasets.Dataset(filled, info=images.info, split=images.split)


def _find_label_column(features: datasets.Features, *, requested: str | None, image: str) -> str:
    if requested is not None:
        _require_column(features, requested, flag="--label_column_name")
        return requested
    others: dict[str, Any] = {name: feature for name, feature in features.items() if name != image}
    typed = [name for name, feature in others.items() if _is_class_label(feature)]
    if len(typed) == 1:
        return typed[0]
    by_name = ([name for name in typed or others if _normalize(name) == known] for known in _LABEL_NAMES)
    known = next(filter(None, by_name), [])
    if len(known) == 1:
        return known[0]
    if several := known or typed:
        raise PipelineError(f"several columns contain labels ({', '.join(several)}): pass --label_column_name")
    named = [name for name in others if not name.lower().startswith(_UNNAMED)]
    if len(named) == 1 and _can_be_label(named[0], others[named[0]]):
        logger.info("using %r, the only other column, as the label column", named[0])
        return named[0]
    raise PipelineError(f"no label column found among the columns {_join(features)}: pass --label_column_name")


def _require_column(features: datasets.Features, name: str, *, flag: str) -> None:
    if name not in features:
        raise PipelineError(
            f"{flag}: column {name!r} not found{did_you_mean(name, features)}: pass one of {_join(features)}"
        )


def _join(features: datasets.Features) -> str:
    return ", ".join(features)


def _normalize(name: str) -> str:
    """Return a column name in the form of the known names: ``image_path`` for ``Image Path``."""
    return re.sub(r"[-\s]+", "_", name.strip().lower())


def _contains_paths(values: pa.ChunkedArray) -> bool:
    """Return whether the first values are paths with an image extension, and no URLs."""
    first = values[:_NUM_INSPECTED].drop_null()
    return len(first) > 0 and bool(
        pyarrow.compute.all(pyarrow.compute.match_substring_regex(first, _IMAGE_PATH)).as_py()
    )


def _can_be_label(name: str, feature: Any) -> bool:
    is_discrete = isinstance(feature, datasets.Value) and re.fullmatch(r"(large_)?string|u?int\d+|bool", feature.dtype)
    return bool(is_discrete) and _normalize(name) not in _NEVER_LABELS


def _is_class_label(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)


def _is_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _is_text(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
