"""Bytes -> upright RGB, and the one policy for images that cannot be read.

Owns what counts as an image file, how every pixel format becomes RGB, and what a broken image does.
It does not find images (`folders`), know columns (`columns`), or resize anything (`transforms`).
"""

import contextlib
import functools
import io
import logging
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import PIL
import PIL.Image
import PIL.ImageOps
from datasets.utils.tqdm import are_progress_bars_disabled

from pipeline import runs
from pipeline.errors import BadImageError, PipelineError

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

# What Pillow's decoders raise on damaged bytes: these share no base class below Exception.
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
_SERIAL_BELOW = 2000  # images; under it, starting processes costs more than they save
_NAMED = 5  # bad images that a message names before it only counts


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return the image upright and in RGB: alpha on white, 16-bit and float grey scaled, never clipped.

    RGB, grey and CMYK images come out exactly as `transformers.pipeline` sees them.

    Raises:
        ValueError: If grey goes beyond 16 bits, or float grey beyond 0..255, so that its scale is unknown.
    """
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        upright = _scale_integers(upright)
    elif upright.mode == "F":
        upright = _scale_floats(upright)
    elif upright.mode in ("RGBA", "LA", "PA") or (upright.mode == "P" and "transparency" in upright.info):
        upright = _composite_on_white(upright)
    return upright.convert("RGB")


def open_image(value: dict[str, Any] | str | Path | None, *, name: str) -> PIL.Image.Image:
    """Return one image, upright and in RGB.

    Args:
        value: A path, or a row of a `datasets.Image(decode=False)` column: its bytes, or else its path.
        name: The file or row, as an error shall name it.

    Raises:
        BadImageError: If it cannot be read whole: missing, empty, truncated, damaged, too big, no image.
    """
    try:
        return _read(value, quick=False)
    except _UNREADABLE as error:
        raise BadImageError(f"{name}: {_reason(error)}") from error


def check_images(split: datasets.Dataset, *, policy: Literal["fail", "skip"], split_name: str) -> datasets.Dataset:
    """Read every image once and return the split without those that cannot be read.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`) and `index`.
        policy: `fail` refuses a split with a bad image, `skip` drops them with a warning.
        split_name: The split, as a message shall name it.

    Raises:
        PipelineError: If an image is bad under `fail`, or none is left under `skip`.
    """
    problems = _find_problems(split.select_columns(["image", "index"]))
    bad = {row: problem for row, problem in enumerate(problems) if problem is not None}
    if not bad:
        return split
    named = "; ".join(list(bad.values())[:_NAMED])
    if len(bad) > _NAMED:
        named += f"; and {len(bad) - _NAMED} more"
    found = f"{split_name}: {len(bad)} of {len(split)} images cannot be read"
    if policy == "fail":
        raise PipelineError(f"{found}: {named}\nMend or remove them, or pass --bad_images skip.")
    if len(bad) == len(split):
        raise PipelineError(f"{found}, so none is left: {named}")
    logger.warning("%s and are left out: %s", found, named)
    return split.select([row for row in range(len(split)) if row not in bad])


@contextlib.contextmanager
def progress_on_terminal_only() -> Iterator[None]:
    """Keep the progress bars of `datasets` out of logs and pipes, where they would be noise."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _read(value: dict[str, Any] | str | Path | None, *, quick: bool) -> PIL.Image.Image:
    data = _read_bytes(value)
    image = PIL.Image.open(io.BytesIO(data), formats=_readable_formats())
    if image.format == "PNG":
        # Pillow decodes a PNG with a wrong checksum into wrong pixels without a word. Only verify() sees it,
        # and it leaves the image unusable.
        image.verify()
        image = PIL.Image.open(io.BytesIO(data), formats=("PNG",))
    if quick:
        # An eighth of the size is several times faster (JPEG only), and still reads the stream to its end.
        image.draft(image.mode, (1, 1))
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


def _composite_on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # convert("RGB") alone would show whatever colour hides below the transparent pixels.
    coloured = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), coloured)


def _scale_integers(image: PIL.Image.Image) -> PIL.Image.Image:
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError(f"grey from {pixels.min()} to {pixels.max()} has no known scale; save it in 8 bits")
    return PIL.Image.fromarray((pixels >> 8).astype(np.uint8))


def _scale_floats(image: PIL.Image.Image) -> PIL.Image.Image:
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 0xFF):  # written so that NaN is refused as well
        raise ValueError(f"float grey from {low:g} to {high:g} has no known scale; save it in 8 bits")
    return PIL.Image.fromarray(np.rint(pixels * (0xFF if high <= 1 else 1)).astype(np.uint8))


def _find_problems(rows: datasets.Dataset) -> list[str | None]:
    """Return, for each row, what is wrong with its image."""
    num_processes = min(runs.usable_cores(), len(rows) // (_SERIAL_BELOW // 2))
    if num_processes < 2:
        return [problem for batch in rows.iter(32) for problem in _problems_of(batch)["problem"]]
    with progress_on_terminal_only():
        checked = rows.map(
            _problems_of,
            batched=True,
            batch_size=32,
            num_proc=num_processes,
            remove_columns=rows.column_names,
            features=datasets.Features({"problem": datasets.Value("string")}),
            desc="Reading every image once",
        )
    return list(checked["problem"])


def _problems_of(batch: dict[str, list[Any]]) -> dict[str, list[str | None]]:
    return {"problem": [_problem_of(*row) for row in zip(batch["image"], batch["index"], strict=True)]}


def _problem_of(value: dict[str, Any] | None, index: int) -> str | None:
    try:
        _read(value, quick=True)
    except _UNREADABLE as error:
        return f"{_row_name(value, index)}: {_reason(error)}"
    return None


def _row_name(value: dict[str, Any] | None, index: int) -> str:
    if value is None or value["path"] is None:
        return f"row {index}"
    return f"row {index} ({value['path']})" if value["bytes"] is not None else value["path"]
