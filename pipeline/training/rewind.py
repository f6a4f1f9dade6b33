"""`--on_nan rewind`: after a divergence, go back to the last good checkpoint, and halve the learning rate.

`run.json` lists the rewinds. A training that starts at a step has those in effect that went back to this step or to an
earlier one. So a resumed run does what an uninterrupted one does, whichever checkpoint it resumes from.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import distributed
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.runs.folder import RunFolder
from pipeline.training.callbacks.divergence import Diverged
from pipeline.training.checkpoints import find_start

logger = logging.getLogger(__name__)

AT_MOST = 3
_REWINDS = "rewinds"
_ELAPSED = "elapsed_at_rewind"
# Some optimizers keep their state among the options, so only these are taken from the flags.
_OPTIONS = ("initial_lr", "weight_decay", "betas", "eps", "momentum")


def rewinds_in_effect(folder: Path, step: int) -> int:
    """Return the number of rewinds in effect for a training that starts at a step. All ranks must call it.

    Rewinds to later steps are removed from `run.json`: the training comes to them again.
    """
    run, noted = _read(folder)
    kept = [each for each in noted if each["resumed_from"] <= step]
    if kept != noted:
        run.update(**{_REWINDS: kept})
    return len(kept)


def elapsed_at_rewind(folder: Path) -> float:
    """Return the seconds of training at the last rewind, which `--max_hours` counts. All ranks must call it."""
    return float(distributed.broadcast(_run(folder).record.get(_ELAPSED, 0.0)))


def note_rewind(folder: Path, problem: Diverged, args: FineTuningArguments, *, elapsed: float) -> None:
    """Note in `run.json` that the training continues from its last good checkpoint. All ranks must call it.

    Args:
        folder: The run folder.
        problem: Why it diverged.
        args: The flags of the training.
        elapsed: Seconds of training until then.

    Raises:
        DistributedError: If it went back often enough.
    """
    step = find_start(folder, args).step
    run, noted = _read(folder)
    if len(noted) == AT_MOST:
        raise distributed.DistributedError(
            f"--on_nan rewind went back {AT_MOST} times, and {problem.reason}: {problem.remedy}"
        )
    rate = args.learning_rate * 0.5 ** (len(noted) + 1)
    logger.warning(
        "%s; rewind %d of at most %d: continuing from step %d with --learning_rate %g",
        problem.reason, len(noted) + 1, AT_MOST, step, rate,
    )  # fmt: skip
    rewind = {"diverged_at": problem.step, "resumed_from": step, "learning_rate": rate}
    run.update(**{_REWINDS: [*noted, rewind], _ELAPSED: round(elapsed, 2)})


def _read(folder: Path) -> tuple[RunFolder, list[dict[str, Any]]]:
    run = _run(folder)
    return run, distributed.broadcast(run.record.get(_REWINDS, []))


def _run(folder: Path) -> RunFolder:
    return RunFolder(folder, writes=distributed.is_main_process())


def options_of(optimizer: Any) -> list[dict[str, Any]]:
    """Return the options of each parameter group, with its peak learning rate."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def use_options(options: Sequence[dict[str, Any]], optimizer: Any, scheduler: Any) -> None:
    """Give an optimizer and a scheduler that were restored from a checkpoint the rates and options of this run.

    Their state stays. If the options have not changed, nothing does.

    Args:
        options: From `options_of`, before they were restored.
        optimizer: The optimizer.
        scheduler: The scheduler of its learning rates.

    Raises:
        ValueError: If they were saved by another optimizer.
    """
    for group, wanted in zip(optimizer.param_groups, options, strict=True):
        before = group.get("initial_lr")
        if before and before != wanted["initial_lr"]:
            group["lr"] *= wanted["initial_lr"] / before
        if missing := wanted.keys() - group.keys() - {"initial_lr"}:
            raise ValueError(f"its optimizer has no {', '.join(sorted(missing))}")
        group.update({key: wanted[key] for key in _OPTIONS if key in wanted})
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [each["initial_lr"] for each in options]
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
