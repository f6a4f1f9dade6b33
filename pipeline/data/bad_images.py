"""Unreadable images: find them before training, then fail or skip them.

Owns the policy of `--bad_images` and the messages about unreadable images. `images.decode` reads the images.
"""

import logging
from typing import Any, Literal

import datasets

from pipeline import distributed
from pipeline.errors import BadImageError, PipelineError
from pipeline.images.decode import open_image
from pipeline.performance import machine
from pipeline.progress import progress_on_terminal_only

logger = logging.getLogger(__name__)

_MIN_IMAGES_FOR_PROCESSES = 2000  # with fewer images, starting processes takes longer than it saves
_MAX_LISTED = 5  # a message lists this many bad images and counts the rest


def check_images(split: datasets.Dataset, *, policy: Literal["fail", "skip"], split_name: str) -> datasets.Dataset:
    """Read every image once and return the split without unreadable images.

    Each rank reads its shard, so all ranks must call it.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`) and `index`.
        policy: `fail` raises an error if any image is bad, `skip` skips bad images with a warning.
        split_name: Name of the split in messages.

    Raises:
        PipelineError: If an image is bad under `fail`, or all images are bad under `skip`.
    """
    shard = distributed.shard(range(len(split)))
    problems = distributed.all_gather_shards(
        _find_problems(split.select_columns(["image", "index"]).select(shard)),
        same={f"the number of {split_name} images": len(split)},
    )
    bad = {row: problem for row, problem in enumerate(problems) if problem is not None}
    if not bad:
        return split
    details = "; ".join(list(bad.values())[:_MAX_LISTED])
    if len(bad) > _MAX_LISTED:
        details += f"; and {len(bad) - _MAX_LISTED} more"
    counted = f"{split_name}: {len(bad)} of {len(split)} images cannot be read"
    if policy == "fail":
        raise PipelineError(f"{counted}: {details}\nfix or remove them, or pass --bad_images skip")
    if len(bad) == len(split):
        raise PipelineError(f"{counted}, so the split would be empty: {details}\nfix the images or use other data")
    logger.warning("%s; skipping them: %s", counted, details)
    return split.select([row for row in range(len(split)) if row not in bad])


def _find_problems(rows: datasets.Dataset) -> list[str | None]:
    """Return the reason for each image that cannot be read, and None for each readable image."""
    cores = machine.usable_cores() // distributed.local_world_size()
    num_processes = min(cores, len(rows) // (_MIN_IMAGES_FOR_PROCESSES // 2))
    if num_processes < 2:
        return [problem for batch in rows.iter(32) for problem in _problems_in_batch(batch)["problem"]]
    with progress_on_terminal_only():
        checked = rows.map(
            _problems_in_batch,
            batched=True,
            batch_size=32,
            num_proc=num_processes,
            remove_columns=rows.column_names,
            features=datasets.Features({"problem": datasets.Value("string")}),
            desc="Checking images",
        )
    return list(checked["problem"])


def _problems_in_batch(batch: dict[str, list[Any]]) -> dict[str, list[str | None]]:
    return {"problem": [_problem_in_row(*row) for row in zip(batch["image"], batch["index"], strict=True)]}


def _problem_in_row(value: dict[str, Any] | None, index: int) -> str | None:
    try:
        open_image(value, name=_row_name(value, index), min_side=1)  # decoding a JPEG at 1/8 of its size is faster
    except BadImageError as error:
        return str(error)
    return None


def _row_name(value: dict[str, Any] | None, index: int) -> str:
    if value is None or value["path"] is None:
        return f"row {index}"
    return f"row {index} ({value['path']})" if value["bytes"] is not None else value["path"]
