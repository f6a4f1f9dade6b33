"""Bytes of an image file -> an upright RGB image."""

import contextlib
import functools
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import PIL.Image

from pipeline.errors import BadImageError
from pipeline.images import signatures
from pipeline.images.depth import FULL_DEPTH, GrayscaleDepth
from pipeline.images.pixels import UNREADABLE, largest_integer, to_rgb
from pipeline.watchdog import reading

# The formats that Pillow may open, whatever the extension of a file: format -> extensions by which images are found.
# EPS and PS are missing because Pillow passes them to Ghostscript, and untrusted bytes must not start an interpreter.
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
    "HEIF": (".heic", ".heif", ".hif"),  # with pillow-heif; without it, these files are found and rejected by name
}
IMAGE_EXTENSIONS = frozenset(extension for extensions in IMAGE_FORMATS.values() for extension in extensions)
MAX_BYTES = 2**29
"""Largest file that is read as an image."""
# Longer side over shorter side. Such an image, resized to a shorter side of 256 pixels, takes 3 GB for a second.
_MAX_ASPECT_RATIO = 5000


def open_image(
    value: dict[str, Any] | str | Path | None,
    *,
    name: str,
    min_side: int | None = None,
    depth: GrayscaleDepth = FULL_DEPTH,
) -> PIL.Image.Image:
    """Return one image, upright and in RGB.

    Args:
        value: A path, or a value of a `datasets.Image(decode=False)` column. Its bytes are used if it has any, else
            its path.
        name: Name of the file or row in the error.
        min_side: Smallest acceptable shorter side in pixels. A JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8
            of its size that is large enough. None: full size.
        depth: How 16-bit grayscale is scaled.

    Raises:
        BadImageError: If the image is missing, empty, truncated, corrupt, too large or in an unsupported format. The
            text is `name: reason`.
    """
    with _explain_unreadable(name):
        return to_rgb(_decode(_read_bytes(value), min_side), depth)


class Checked(NamedTuple):
    """What reading an image found.

    Attributes:
        maximum: The largest value of grayscale with more than 8 bits, None for all other images.
        dark: Whether it is a color image with 16 bits, of which Pillow reads the upper 8, that is almost black.
    """

    maximum: int | None
    dark: bool


def check_image(value: dict[str, Any] | str | Path | None, *, name: str) -> Checked:
    """Read one image to its end, as fast as possible.

    Raises:
        BadImageError: As `open_image`.
    """
    with _explain_unreadable(name):
        image = _decode(_read_bytes(value), min_side=1)  # decoding a JPEG at 1/8 of its size is faster
        tiles: Any = getattr(image, "tile", None)  # how the pixels are stored; empty after they are read
        has_16_bit_colors = image.mode in ("RGB", "RGBA") and ";16" in str(tiles)
        rgb = to_rgb(image)
        dark = has_16_bit_colors and int(np.asarray(rgb).max()) < 16
        return Checked(largest_integer(image), dark)


def image_size(value: dict[str, Any] | str | Path | None) -> tuple[int, int]:
    """Return width and height in pixels as they are stored, from the header of an image that was checked before."""
    return _open_header(value).size


def image_format(value: dict[str, Any] | str | Path | None) -> str:
    """Return the name of the format, such as `JPEG`, from the header of an image that was checked before."""
    return str(_open_header(value).format)


def _open_header(value: dict[str, Any] | str | Path | None) -> PIL.Image.Image:
    with warnings.catch_warnings(action="ignore"):
        return PIL.Image.open(io.BytesIO(_read_bytes(value)), formats=supported_formats())


@contextlib.contextmanager
def _explain_unreadable(name: str) -> Iterator[None]:
    try:
        # An image is either read or rejected, so Pillow's warnings about its size or corrupt metadata are not shown.
        with warnings.catch_warnings(action="ignore"), reading(name):
            yield
    except UNREADABLE as error:
        raise BadImageError(f"{name}: {_reason(error)}") from error


def _decode(data: bytes, min_side: int | None) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=supported_formats())
    except PIL.UnidentifiedImageError as error:
        raise ValueError(signatures.describe(data, supported_formats())) from error
    if image.format == "PNG":
        # Pillow decodes a PNG with a wrong checksum into wrong pixels without a warning. Only verify() detects it,
        # and the image cannot be used afterwards.
        image.verify()
        image = PIL.Image.open(io.BytesIO(data), formats=("PNG",))
    if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
        raise ValueError(f"the aspect ratio of {image.width} x {image.height} pixels exceeds {_MAX_ASPECT_RATIO}:1")
    if min_side is not None:
        image.draft(image.mode, (min_side, min_side))  # The JPEG data are still read to the end.
    return image


@functools.cache
def supported_formats() -> tuple[str, ...]:
    """Return our formats without those that this installation lacks: Pillow fails on unknown names."""
    PIL.Image.init()
    with contextlib.suppress(ImportError):  # an optional package
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return tuple(name for name in IMAGE_FORMATS if name in PIL.Image.OPEN)


def _read_bytes(value: dict[str, Any] | str | Path | None) -> bytes:
    if isinstance(value, dict):
        data, path = value["bytes"], value["path"]
    else:
        data, path = None, value
    if data is None and path is None:
        raise ValueError("no image in this row")
    contents: bytes = _read_file(path) if data is None else data
    if not contents:
        raise ValueError("empty")
    if len(contents) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES >> 20} MB")
    return contents


def _read_file(path: str | Path) -> bytes:
    """Return the content of a regular file, but of a larger one than `MAX_BYTES` only a little more than that.

    A device such as /dev/zero has no end, and a pipe may never have one.

    Raises:
        ValueError: If it is not a regular file.
        OSError: If it cannot be read.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 (a Path takes longer to make than this call)
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder says what it is
        raise ValueError("not a regular file")
    with open(path, "rb") as stream:  # noqa: PTH123
        return stream.read(MAX_BYTES + 1)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error) or type(error).__name__).splitlines()[0]
