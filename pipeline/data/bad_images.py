"""The policy for images that cannot be read: fail or skip."""

import logging
from typing import Any, Literal

import datasets

from pipeline import distributed
from pipeline.distributed import progress_on_terminal_only
from pipeline.errors import PipelineError
from pipeline.images.decode import _read, _reason
from pipeline.images.pixels import UNREADABLE
from pipeline.performance import machine

logger = logging.getLogger(__name__)

_SERIAL_BELOW = 2000  # images; under it, starting processes costs more than they save
_NAMED = 5  # bad images that a message names before it only counts


def check_images(split: datasets.Dataset, *, policy: Literal["fail", "skip"], split_name: str) -> datasets.Dataset:
    """Read every image once and return the split without those that cannot be read. Processes share the work.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`) and `index`.
        policy: `fail` refuses a split with a bad image, `skip` drops them with a warning.
        split_name: The split, as a message shall name it.

    Raises:
        PipelineError: If an image is bad under `fail`, or none is left under `skip`.
    """
    share = distributed.shard(range(len(split)))
    problems = distributed.all_gather_shards(
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


def _find_problems(rows: datasets.Dataset) -> list[str | None]:
    """Return, for each row, what is wrong with its image."""
    num_processes = min(machine.usable_cores() // distributed.local_world_size(), len(rows) // (_SERIAL_BELOW // 2))
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
