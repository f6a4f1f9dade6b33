"""Which column holds the images and which the labels, and the image column in its one shape.

Owns the names that columns usually have, and the check that foreign tables carry the bytes of their images.
It does not read labels (`labels`) or decode images (`images`).
"""

from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow.compute

from pipeline.errors import PipelineError, did_you_mean

# Names by which a column is known where its type does not tell; of several labels the first is taken.
_IMAGE_NAMES = (
    *("image", "images", "img", "pixel_values", "file_name", "filename", "file"),
    *("image_path", "img_path", "filepath", "file_path", "path"),
)
_LABEL_NAMES = (
    *("label", "labels", "class", "target", "fine_label", "category", "cls"),
    *("class_name", "label_name", "species"),
)


@dataclass(frozen=True)
class Columns:
    """The two columns in use."""

    image: str
    label: str


def find_columns(features: datasets.Features, *, image: str | None, label: str | None) -> Columns:
    """Return the columns that were named, or else those that type and name give away.

    Raises:
        PipelineError: If a named column is missing, or none or several qualify.
    """
    image = find_image_column(features, named=image)
    return Columns(image, _find_label_column(features, named=label, image=image))


def find_image_column(features: datasets.Features, *, named: str | None) -> str:
    """Return the named image column, or else the one that type or name gives away.

    Raises:
        PipelineError: If the named column is missing or holds no images, or none or several qualify.
    """
    if named is not None:
        _require_column(features, named, flag="--image_column_name")
        feature = features[named]
        if not (_is_image(feature) or _is_bytes(feature) or _is_text(feature)):
            raise PipelineError(f"--image_column_name {named}: that column holds {feature}, not images.")
        return named
    kinds: dict[str, Any] = dict(features)
    tiers = (
        [name for name, feature in kinds.items() if _is_image(feature)],
        [name for name, feature in kinds.items() if _is_bytes(feature)],
        [name for name, feature in kinds.items() if _is_text(feature) and name.lower() in _IMAGE_NAMES],
    )
    found = next((tier for tier in tiers if tier), [])
    if len(found) > 1:
        raise PipelineError(f"Several columns hold images: {', '.join(found)}. Pass --image_column_name.")
    if not found:
        raise PipelineError(f"No column of images among: {_listed(features)}. Pass --image_column_name.")
    return found[0]


def take_images(split: datasets.Dataset, *, column: str) -> datasets.Dataset:
    """Return the image column alone, called ``image``, as undecoded bytes and paths."""
    images = split.select_columns([column])
    if column != "image":
        images = images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(decode=False))


def require_bytes(images: datasets.Dataset, *, split_name: str) -> None:
    """Refuse images that are only a path: whoever wrote the table would choose which of our files are read.

    Raises:
        PipelineError: If an image has a path and no bytes.
    """
    values = images.data.column("image")
    contents = pyarrow.compute.struct_field(values, "bytes")
    paths = pyarrow.compute.struct_field(values, "path")
    only_path = pyarrow.compute.and_(pyarrow.compute.is_null(contents), pyarrow.compute.is_valid(paths))
    rows = pyarrow.compute.indices_nonzero(only_path)
    if len(rows):
        raise PipelineError(
            f"{split_name}: {len(rows)} images are a path without bytes (row {rows[0]}: "
            f"{paths[rows[0].as_py()]}), and paths in foreign tables are not followed.\n"
            "Embed the images, or use a CSV file or class folders."
        )


def _find_label_column(features: datasets.Features, *, named: str | None, image: str) -> str:
    if named is not None:
        _require_column(features, named, flag="--label_column_name")
        return named
    others: dict[str, Any] = {name: feature for name, feature in features.items() if name != image}
    typed = [name for name, feature in others.items() if isinstance(feature, datasets.ClassLabel)]
    if len(typed) == 1:
        return typed[0]
    candidates = {name.lower(): name for name in typed or others}
    if known := [candidates[name] for name in _LABEL_NAMES if name in candidates]:
        return known[0]
    if typed:
        raise PipelineError(f"Several columns hold labels: {', '.join(typed)}. Pass --label_column_name.")
    raise PipelineError(f"No column of labels among: {_listed(features)}. Pass --label_column_name.")


def _require_column(features: datasets.Features, name: str, *, flag: str) -> None:
    if name not in features:
        raise PipelineError(
            f"{flag} {name}: no such column{did_you_mean(name, features)}; there are: {_listed(features)}."
        )


def _listed(features: datasets.Features) -> str:
    return ", ".join(features)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)


def _is_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _is_text(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
