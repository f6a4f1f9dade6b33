"""Unreadable images: find them in all splits before training, then fail or skip them. Measure the bit depth meanwhile.

Owns the policy of `--bad_images` and the messages about unreadable images. `images.decode` reads the images.
"""

import contextlib
import hashlib
import logging
import math
import mmap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import PIL

from pipeline import distributed
from pipeline.errors import BadImageError, PipelineError, raise_problems
from pipeline.images.decode import check_image, supported_formats
from pipeline.images.depth import FULL_DEPTH, GrayscaleDepth
from pipeline.images.identity import content_key
from pipeline.performance import machine
from pipeline.progress import hide_library_bars, show_life
from pipeline.runs.files import read_json, write_json

logger = logging.getLogger(__name__)

_MIN_IMAGES_FOR_PROCESSES = 2000  # with fewer images, starting processes takes longer than it saves
_MIN_SECONDS_TO_KEEP = 1.0  # checking again what took less is not worth a file
_VERDICT_FORMAT = 1  # increase it when `check_image` accepts or measures other images
_MAX_LISTED = 20  # a message lists this many bad images of a split and counts the rest
_MAX_PROCESSES = 256
# The number of images that each process has checked. It is shared memory, so that the main process can show the sum.
_num_checked = memoryview(mmap.mmap(-1, 8 * _MAX_PROCESSES)).cast("q")


class Skipped(NamedTuple):
    """An image that was skipped because it cannot be read.

    Attributes:
        split: Name of the split.
        image: Name of the file or row.
        reason: Why it cannot be read.
    """

    split: str
    image: str
    reason: str

    def __str__(self) -> str:
        return f"{self.split}: {self.image}: {self.reason}"


class CheckedSplits(datasets.DatasetDict):
    """Splits without unreadable images, and what checking them has found.

    Attributes:
        skipped: The images that were skipped.
        grayscale_bits: Number of bits that 16-bit grayscale images of train use. None: there are no such images.
    """

    skipped: tuple[Skipped, ...] = ()
    grayscale_bits: int | None = None


class _Checked(NamedTuple):
    """Result for one image.

    Attributes:
        image: Its name if it cannot be read.
        reason: Why it cannot be read.
        maximum: Its largest value if it is grayscale with 16 bits.
        dark: Whether it is a color image with 16 bits that is almost black.
    """

    image: str | None
    reason: str | None
    maximum: int | None = None
    dark: bool = False


_COLUMNS = datasets.Features(
    image=datasets.Value("string"),
    reason=datasets.Value("string"),
    maximum=datasets.Value("int32"),
    dark=datasets.Value("bool"),
)


def check_images(
    splits: Mapping[str, datasets.Dataset], *, policy: Literal["fail", "skip"], max_bad: float = 1.0
) -> CheckedSplits:
    """Read every image of all splits once and return the splits without unreadable images.

    Each rank reads its shard, so all ranks must call it.

    Args:
        splits: Rows with `image` (`datasets.Image(decode=False)`) and `index`, by the name of the split. A stream is
            not read: its images are checked when they arrive.
        policy: `fail` raises an error if any image is bad, `skip` skips bad images with a warning.
        max_bad: Under `skip`, the fraction of a split that may be bad. One image always may.

    Raises:
        PipelineError: If an image is bad under `fail`, or too many or all images of a split are bad under `skip`. It
            lists the images of all splits.
    """
    found = {
        name: _check_split(split, split_name=name)
        for name, split in splits.items()
        if isinstance(split, datasets.Dataset)
    }
    raise_problems(_problems(found, policy=policy, max_bad=max_bad))
    checked = CheckedSplits(splits)
    for name, results in found.items():
        if bad := _bad_of(name, results):
            logger.warning("%s; skipping them: %s", _count(name, bad, len(results)), _list(bad))
            checked[name] = splits[name].select([row for row, result in enumerate(results) if result.reason is None])
            checked.skipped += tuple(bad)
    _warn_of_dark_colors(found)
    maxima = {name: [r.maximum for r in results if r.maximum is not None] for name, results in found.items()}
    if train := maxima.get("train"):
        checked.grayscale_bits = _measure_depth(train)
    elif "train" in splits and "train" not in found:
        _reject_dark(maxima)
    return checked


def describe_skipped(skipped: Sequence[object]) -> str:
    """Return the list of skipped images (as `name: reason`) that ends a command, or an empty text."""
    if not skipped:
        return ""
    counted = "1 image" if len(skipped) == 1 else f"{len(skipped)} images"
    return "\n  ".join([f"skipped {counted} that cannot be read:", *map(str, skipped)])


def _problems(found: Mapping[str, list[_Checked]], *, policy: str, max_bad: float) -> Iterator[str]:
    """Yield the bad images of each split that the policy rejects, then what to do."""
    remedy = None
    for name, results in found.items():
        bad = _bad_of(name, results)
        if bad and policy == "fail":
            yield f"{_count(name, bad, len(results))}: {_list(bad)}"
            remedy = "fix or remove them, or pass --bad_images skip"
        elif bad and len(bad) == len(results):
            yield f"{_count(name, bad, len(results))}, so the split would be empty: {_list(bad)}"
            remedy = "fix the images or use other data"
        elif len(bad) > max(1, max_bad * len(results)):
            yield f"{_count(name, bad, len(results))}, more than --max_bad_images {max_bad:g}: {_list(bad)}"
            remedy = f"fix or remove them, or pass --max_bad_images {_share(len(bad), len(results))}"
    if remedy:
        yield remedy


def _share(bad: int, total: int) -> str:
    """Return a fraction of two digits that is at least `bad` of `total`."""
    return f"{math.ceil(100 * bad / total) / 100:g}"


def _bad_of(split: str, results: list[_Checked]) -> list[Skipped]:
    return [Skipped(split, r.image or "", r.reason) for r in results if r.reason is not None]


def _count(name: str, bad: list[Skipped], total: int) -> str:
    return f"{name}: {len(bad)} of {total} images cannot be read"


def _list(bad: list[Skipped]) -> str:
    more = [f"and {len(bad) - _MAX_LISTED} more"] if len(bad) > _MAX_LISTED else []
    return "; ".join([*(f"{image}: {reason}" for _, image, reason in bad[:_MAX_LISTED]), *more])


def _measure_depth(maxima: list[int]) -> int:
    """Return the number of bits that 16-bit grayscale images use, given the largest value of each image."""
    depth = GrayscaleDepth.holding(max(maxima))
    logger.info(
        "train has %d grayscale images with 16 bits and values up to %d; scaling values from 0 to %d to 8 bits",
        len(maxima), max(maxima), depth.limit,
    )  # fmt: skip
    if dark := [maximum for maximum in maxima if depth.is_dark(maximum)]:
        logger.warning(
            "dark: %d of these images use values up to %d only; they lose most of their gray levels",
            len(dark),
            max(dark),
        )
    return depth.bits


def _warn_of_dark_colors(found: Mapping[str, list[_Checked]]) -> None:
    for name, results in found.items():
        if dark := sum(result.dark for result in results):
            logger.warning(
                "dark: %d color images of %s have 16 bits and use at most 12 of them, so they are almost black: "
                "rescale them to 8 bits",
                *(dark, name),
            )


def _reject_dark(maxima: Mapping[str, list[int]]) -> None:
    """Check that 16-bit grayscale images use their 16 bits, because those of a stream cannot be measured.

    Raises:
        PipelineError: If all such images of a split are dark.
    """
    raise_problems(
        f"{name} has 16-bit grayscale images with values up to {max(values)} only, and --streaming would show them "
        "almost black, because it cannot measure the depth of the training images: remove --streaming"
        for name, values in maxima.items()
        if values and FULL_DEPTH.is_dark(max(values))
    )


def _check_split(split: datasets.Dataset, *, split_name: str) -> list[_Checked]:
    rows = split.select_columns(["image", "index"]).select(distributed.shard(range(len(split))))
    _num_checked[:] = memoryview(bytes(_num_checked.nbytes)).cast("q")
    with show_life(lambda: f"checking the images of {split_name}: {sum(_num_checked)} of {len(rows)}"):
        checked = _check_once(rows, split_name)
    return distributed.all_gather_shards(checked, same={f"the number of {split_name} images": len(split)})


def _check_once(rows: datasets.Dataset, split_name: str) -> list[_Checked]:
    """Return the results for rows, from an earlier command (`doctor`, `train`) if it could read the same images."""
    verdict = _verdict_file(rows)
    if (known := _read_verdict(verdict)) is not None:
        logger.info("%s: %d images could be read by an earlier command and have not changed", split_name, len(rows))
        return [_Checked(None, None, *known.get(str(row), (None, False))) for row in range(len(rows))]
    start = time.perf_counter()
    checked = _check_rows(rows)
    # Bad images are read again each time, because the reason can be a disk or a network.
    if time.perf_counter() - start >= _MIN_SECONDS_TO_KEEP and all(result.reason is None for result in checked):
        found = {str(row): [r.maximum, r.dark] for row, r in enumerate(checked) if r.dark or r.maximum is not None}
        with contextlib.suppress(OSError, PipelineError):  # it is only slower without the file
            if verdict is not None:
                verdict.parent.mkdir(parents=True, exist_ok=True)
                write_json(verdict, found)
    return checked


def _verdict_file(rows: datasets.Dataset) -> Path | None:
    """Return the file for the results of rows, named by their contents (files by name, size and time) and the decoder.

    None: an image is missing, so nothing is known of these rows.
    """
    try:
        images = content_key(rows)
    except PipelineError:
        return None
    decoder = "-".join((PIL.__version__, *supported_formats()))
    name = hashlib.sha256(f"{_VERDICT_FORMAT} {decoder} {images}".encode()).hexdigest()[:32]
    return Path(datasets.config.HF_DATASETS_CACHE) / "vit-pipeline" / "checked" / f"{name}.json"


def _read_verdict(file: Path | None) -> dict[str, Any] | None:
    if file is None or not file.is_file():
        return None
    try:
        return read_json(file)
    except (OSError, ValueError):  # a damaged file is replaced
        return None


def _check_rows(rows: datasets.Dataset) -> list[_Checked]:
    cores = machine.usable_cores() // distributed.local_world_size()
    num_processes = min(cores, len(rows) // (_MIN_IMAGES_FOR_PROCESSES // 2), _MAX_PROCESSES)
    if num_processes < 2:
        return [result for batch in rows.iter(32) for result in _results_of(_check_batch(batch))]
    with hide_library_bars():
        checked = rows.map(
            _check_batch,
            with_rank=True,
            fn_kwargs={"formats": supported_formats()},  # `datasets` caches the result by the arguments
            batched=True,
            batch_size=32,
            num_proc=num_processes,
            remove_columns=rows.column_names,
            features=_COLUMNS,
        )
    return _results_of(checked[:])


def _results_of(columns: Mapping[str, list[Any]]) -> list[_Checked]:
    return [_Checked(*values) for values in zip(*(columns[name] for name in _Checked._fields), strict=True)]


def _check_batch(
    batch: dict[str, list[Any]],
    process: int = 0,
    formats: tuple[str, ...] = (),  # noqa: ARG001
) -> dict[str, list[Any]]:
    results = [_check_row(*row) for row in zip(batch["image"], batch["index"], strict=True)]
    _num_checked[process] += len(results)
    return {name: list(values) for name, values in zip(_Checked._fields, zip(*results, strict=True), strict=True)}


def _check_row(value: dict[str, Any] | None, index: int) -> _Checked:
    name = _row_name(value, index)
    try:
        return _Checked(None, None, *check_image(value, name=name))
    except BadImageError as error:
        return _Checked(name, str(error).removeprefix(f"{name}: "))


def _row_name(value: dict[str, Any] | None, index: int) -> str:
    if value is None or value["path"] is None:
        return f"row {index}"
    return f"row {index} ({value['path']})" if value["bytes"] is not None else value["path"]
