"""Saving a checkpoint: it counts only when it is complete, and a full disk is one line."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline import distributed
from pipeline.runs import checkpoints

_MARGIN = 1 << 20  # bytes for the small files of a checkpoint
# torch raises a plain RuntimeError if it cannot write. Its message contains one of these texts.
_WRITE_ERRORS = ("inline_container", "PytorchStreamWriter")


@contextlib.contextmanager
def saved_safely(checkpoint: Path, *, weights: int, best: int | None, keep: int | None) -> Iterator[None]:
    """Seal the checkpoint that the block writes, then remove old ones. All ranks must call it.

    Args:
        checkpoint: Its folder.
        weights: Bytes of the tensors that are saved.
        best: Step of the best checkpoint.
        keep: Number of newest checkpoints that stay. None: all.

    Raises:
        PipelineError: If the checkpoint does not fit on the disk. What was written of it is removed.
    """
    needed = weights + _MARGIN

    def prepare() -> None:
        checkpoints.discard(checkpoint)
        checkpoints.require_space(checkpoint, needed)

    def finish() -> None:
        checkpoints.seal(checkpoint)
        kept = keep and max(keep, checkpoints.KEPT_WHILE_TRAINING)
        checkpoints.rotate(checkpoint.parent, best=best, keep=kept)

    distributed.on_main_process(prepare)
    try:
        yield
        distributed.all_gather(None)  # all ranks have written their files
        distributed.on_main_process(finish)
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(text in str(error) for text in _WRITE_ERRORS):
            raise
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise checkpoints.full_disk(checkpoint, needed, getattr(error, "strerror", None) or str(error)) from error


def count_bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested dicts, lists and tuples."""
    if hasattr(state, "element_size"):
        return int(state.numel() * state.element_size())
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(count_bytes, items))
