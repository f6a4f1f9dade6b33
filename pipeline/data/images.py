"""Bytes -> upright RGB, and the one policy for images that cannot be read.

Owns what counts as an image file, and what a broken image does. How a pixel format becomes RGB is in `pixels`.
It does not find images (`folders`), know columns (`columns`), or resize anything (`transforms`).
"""

import contextlib
import functools
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import PIL
import PIL.Image
from datasets.utils.tqdm import are_progress_bars_disabled

from pipeline import processes, runs
from pipeline.data.pixels import UNREADABLE, to_rgb
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

_SERIAL_BELOW = 2000  # images; under it, starting processes costs more than they save
_NARROWEST = 5000  # times as long as wide; scaled to 256 pixels of width, such an image takes 3 GB for a second
_NAMED = 5  # bad images that a message names before it only counts


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


def check_images(split: datasets.Dataset, *, policy: Literal["fail", "skip"], split_name: str) -> datasets.Dataset:
    """Read every image once and return the split without those that cannot be read. Processes share the work.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`) and `index`.
        policy: `fail` refuses a split with a bad image, `skip` drops them with a warning.
        split_name: The split, as a message shall name it.

    Raises:
        PipelineError: If an image is bad under `fail`, or none is left under `skip`.
    """
    share = processes.mine(range(len(split)))
    problems = processes.join(
        _find_problems(split.select_columns(["image", "index"]).select(share)),
        same={"the number of images": f"{split_name} {len(split)}"},
    )
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


def _find_problems(rows: datasets.Dataset) -> list[str | None]:
    """Return, for each row, what is wrong with its image."""
    num_processes = min(runs.usable_cores() // processes.processes_here(), len(rows) // (_SERIAL_BELOW // 2))
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
        _read(value, at_least=1)  # an eighth of the size is faster (JPEG only)
    except UNREADABLE as error:
        return f"{_row_name(value, index)}: {_reason(error)}"
    return None


def _row_name(value: dict[str, Any] | None, index: int) -> str:
    if value is None or value["path"] is None:
        return f"row {index}"
    return f"row {index} ({value['path']})" if value["bytes"] is not None else value["path"]
