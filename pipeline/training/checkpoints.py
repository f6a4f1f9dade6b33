"""Where a training starts: at its beginning, at a checkpoint, or after its end; and how its checkpoints are saved."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline import distributed
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError
from pipeline.runs import checkpoints
from pipeline.runs.background import Background
from pipeline.runs.checkpoints import checkpoint_folder
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import TRAINER_STATE

_MARGIN = 1 << 20  # bytes for the small files of a checkpoint
# torch raises a plain RuntimeError if it cannot write. Its message contains one of these texts.
_WRITE_ERRORS = ("inline_container", "PytorchStreamWriter")


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        checkpoint: The checkpoint to resume from. None: train from the beginning.
        final_state: The file with the state of the last step, if training was complete.
    """

    checkpoint: Path | None = None
    final_state: Path | None = None

    @property
    def step(self) -> int:
        """The optimizer steps that are done."""
        return int(self.checkpoint.name.removeprefix("checkpoint-")) if self.checkpoint else 0


def find_start(folder: Path, args: FineTuningArguments) -> Start:
    """Return where to start. All ranks must call it.

    A checkpoint is used if it is intact and its best checkpoint is intact. Newer ones are set aside.

    Args:
        folder: The run folder.
        args: The flags of the training.
    """
    found = [Start()]

    def look() -> None:
        found[0] = _find_start(folder, args)

    distributed.on_main_process(look)
    start = distributed.broadcast(found[0])
    distributed.require_same({"the newest checkpoint": start.checkpoint and start.checkpoint.is_dir()})
    return start


def saved_batch_size(folder: Path) -> int | None:
    """Return the per-device batch size of the newest intact checkpoint of a run, or None. All ranks must call it."""
    found: list[int | None] = [None]

    def look() -> None:
        if (newest := checkpoints.newest_complete_checkpoint(folder)) is not None:
            found[0] = read_json(newest / TRAINER_STATE)["train_batch_size"]

    distributed.on_main_process(look)
    return distributed.broadcast(found[0])


def _find_start(folder: Path, args: FineTuningArguments) -> Start:
    if (end := _read_state(folder)) is not None:
        damage = checkpoints.find_damage(checkpoint_folder(folder, end["best_global_step"]))
        if damage is None:
            return Start(final_state=folder / TRAINER_STATE)
    (folder / TRAINER_STATE).unlink(missing_ok=True)  # it is damaged, or the best checkpoint is: the training resumes
    for step in checkpoints.saved_steps(folder):
        path = checkpoint_folder(folder, step)
        if (reason := _why_unusable(path)) is not None:
            checkpoints.set_aside(path, reason)
            continue
        state = read_json(path / TRAINER_STATE)
        return Start(final_state=path / TRAINER_STATE) if _has_ended(state, args) else Start(checkpoint=path)
    return Start()


def _read_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of a complete training, or None if it cannot be read."""
    try:
        state = read_json(folder / TRAINER_STATE)
        return state if {"best_global_step", "log_history", "global_step"} <= state.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _why_unusable(checkpoint: Path) -> str | None:
    """Return why a training cannot resume from a checkpoint, or None."""
    if (damage := checkpoints.find_damage(checkpoint)) is not None:
        return damage
    best = read_json(checkpoint / TRAINER_STATE)["best_global_step"]
    if best is None or (damage := checkpoints.find_damage(checkpoint_folder(checkpoint.parent, best))) is None:
        return None
    return f"checkpoint-{best}, the best one before, cannot be used ({damage})"


def _has_ended(state: dict[str, Any], args: FineTuningArguments) -> bool:
    """Return whether training ends at the state of a checkpoint; the Trainer (transformers 5.23) would train on."""
    if state["global_step"] >= state["max_steps"]:
        return True
    stopping = state["stateful_callbacks"].get("EarlyStoppingCallback", {}).get("attributes", {})
    patience, hours = args.early_stopping_patience, args.max_hours
    if patience is not None and stopping.get("early_stopping_patience_counter", 0) >= patience:
        return True
    elapsed = max((row.get("elapsed", 0.0) for row in state["log_history"]), default=0.0)
    return hours is not None and elapsed > 3600 * hours and state["best_global_step"] is not None


Writes = list[Callable[[], object]]


@contextlib.contextmanager
def saved_safely(
    checkpoint: Path, *, weights: int, best: int | None, keep: int | None, background: Background | None
) -> Iterator[Writes | None]:
    """Seal the checkpoint that the block writes, then remove old ones. All ranks must call it.

    Args:
        checkpoint: Its folder.
        weights: Bytes of the tensors that are saved.
        best: Step of the best checkpoint.
        keep: Number of newest checkpoints that stay. None: all.
        background: Seals it after the block, which must join it. None: it is sealed when the block ends.

    Yields:
        A list for writes that are done in the background before sealing, or None.

    Raises:
        PipelineError: If the checkpoint does not fit on the disk. What was written of it is removed. An error in the
            background is raised by the next `join`.
    """
    needed = weights + _MARGIN
    writes: Writes = []

    def prepare() -> None:
        checkpoints.discard(checkpoint)
        checkpoints.require_space(checkpoint, needed)

    def finish() -> None:
        for write in writes:
            write()
        _remove_path(checkpoint / TRAINER_STATE)
        checkpoints.seal(checkpoint)
        kept = keep and max(keep, checkpoints.KEPT_WHILE_TRAINING)
        checkpoints.rotate(checkpoint.parent, best=best, keep=kept)

    def finish_later() -> None:
        with _removed_on_error(checkpoint, needed):
            finish()

    distributed.on_main_process(prepare)
    with _removed_on_error(checkpoint, needed):
        yield writes if background else None
        distributed.all_gather(None)  # all ranks have written their files
        if background is None:
            distributed.on_main_process(finish)
        else:
            background.start(finish_later)


@contextlib.contextmanager
def _removed_on_error(checkpoint: Path, needed: int) -> Iterator[None]:
    """Remove a checkpoint that cannot be written, and convert the error to a `PipelineError`."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(text in str(error) for text in _WRITE_ERRORS):
            raise
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise checkpoints.full_disk(checkpoint, needed, getattr(error, "strerror", None) or str(error)) from error


def in_background(args: FineTuningArguments) -> bool:
    """Return whether checkpoints are written while training continues: on a GPU, which needs no CPU core for its steps.

    With several ranks, an error of one would have to reach the others; and a push needs the complete checkpoint.
    """
    return args.device.type != "cpu" and args.world_size == 1 and args.hub_strategy != "checkpoint"


def snapshot(state: Any) -> Any:
    """Return nested dicts, lists and tuples with copies of all tensors, in the memory of the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    return type(state)(map(snapshot, state)) if isinstance(state, list | tuple) else state


def _remove_path(state_file: Path) -> None:
    """Remove the path of this machine from a state of the Trainer. A resume finds the best checkpoint by its step."""
    state = read_json(state_file)
    if (best := state.get("best_model_checkpoint")) is not None:
        write_json(state_file, state | {"best_model_checkpoint": Path(best).name})


@contextlib.contextmanager
def explain_misfit(checkpoint: Path) -> Iterator[None]:
    """Convert the errors of loading a checkpoint of other settings, see `--resume anyway`, to a `PipelineError`."""
    try:
        yield
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise PipelineError(
            f"training cannot continue from {checkpoint} with these settings ({' '.join(str(error).split())[:200]}): "
            "use the settings that it was started with, or choose another --output_dir"
        ) from error


def count_bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested dicts, lists and tuples."""
    if hasattr(state, "element_size"):
        return int(state.numel() * state.element_size())
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(count_bytes, items))
