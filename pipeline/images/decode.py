"""Bytes of an image file -> an upright RGB image."""

import functools
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import PIL
import PIL.Image

from pipeline.errors import BadImageError
from pipeline.images.pixels import UNREADABLE, to_rgb

logger = logging.getLogger(__name__)

# What we let Pillow open, whatever a file calls itself: format -> the extensions by which images are found.
# EPS and PS stay out: Pillow hands them to Ghostscript, and foreign bytes start no interpreter here.
IMAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
}
IMAGE_EXTENSIONS = frozenset(extension for extensions in IMAGE_FORMATS.values() for extension in extensions)
_NARROWEST = 5000  # times as long as wide; scaled to 256 pixels of width, such an image takes 3 GB for a second


def open_image(value: dict[str, Any] | str | Path | None, *, name: str, at_least: int | None = None) -> PIL.Image.Image:
    """Return one image, upright and in RGB.

    Args:
        value: A path, or a row of a `datasets.Image(decode=False)` column: its bytes, or else its path.
        name: The file or row, as an error shall name it.
        at_least: Pixels of its shorter side that suffice: a JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of
            its size that has as many. None: every image as it is.

    Raises:
        BadImageError: If it cannot be read whole: missing, empty, truncated, damaged, too big, no image.
    """
    try:
        return _read(value, at_least)
    except UNREADABLE as error:
        raise BadImageError(f"{name}: {_reason(error)}") from error


def _read(value: dict[str, Any] | str | Path | None, at_least: int | None) -> PIL.Image.Image:
    data = _read_bytes(value)
    # An image is either read or refused. Pillow's warnings, of its size or of damaged metadata, are no third way.
    with warnings.catch_warnings(action="ignore"):
        return _decode(data, at_least)


def _decode(data: bytes, at_least: int | None) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(data), formats=_readable_formats())
    if image.format == "PNG":
        # Pillow decodes a PNG with a wrong checksum into wrong pixels without a word. Only verify() sees it,
        # and it leaves the image unusable.
        image.verify()
        image = PIL.Image.open(io.BytesIO(data), formats=("PNG",))
    if max(image.size) > _NARROWEST * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels are too narrow to be resized")
    if at_least is not None:
        image.draft(image.mode, (at_least, at_least))  # the stream of a JPEG is still read to its end
    return to_rgb(image)


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """Return our formats less those that this build of Pillow lacks: it would stumble over their names."""
    PIL.Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in PIL.Image.OPEN)


def _read_bytes(value: dict[str, Any] | str | Path | None) -> bytes:
    if isinstance(value, dict):
        data, path = value["bytes"], value["path"]
    else:
        data, path = None, value
    if data is None and path is None:
        raise ValueError("no image in this row")
    contents: bytes = Path(path).read_bytes() if data is None else data
    if not contents:
        raise ValueError("empty")
    return contents


def _reason(error: BaseException) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or of a kind that is not read here"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error) or type(error).__name__).splitlines()[0]
