"""Sends the plot of the confusion matrix to the trackers of `--report_to`. The Trainer sends them the curves."""

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

logger = logging.getLogger(__name__)

PLOT = "figures/confusion-matrix.png"


def log_confusion(folder: Path, trackers: Sequence[str]) -> None:
    """Send the confusion matrix to the trackers, where the Trainer has logged the curves of this run.

    Nothing is sent without the plot (matplotlib is not installed), or if the Trainer logged nothing in this process.
    A tracker that fails is named; the results stay.

    Args:
        folder: Run folder.
        trackers: Value of `--report_to`.
    """
    if not (folder / PLOT).is_file():
        return
    for name in trackers if "all" not in trackers else _SENDERS:
        if name not in _SENDERS:
            logger.warning("%s is not sent to %s: upload it yourself", PLOT, name)
        elif importlib.util.find_spec(name) is not None:
            try:
                _SENDERS[name](folder)
            except Exception as error:  # noqa: BLE001 - a tracker raises what its network raises; the run is finished
                logger.warning("%s is not sent to %s: %s", PLOT, name, error)


def _to_tensorboard(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter  # tensorboard is optional

    if (events := _event_folder(folder)) is not None:
        with PIL.Image.open(folder / PLOT) as plot, SummaryWriter(str(events)) as writer:
            writer.add_image("confusion_matrix", np.asarray(plot.convert("RGB")), dataformats="HWC")


def _event_folder(folder: Path) -> Path | None:
    """Return the folder of the newest event file of the run, None if there is none."""
    given = os.environ.get("TENSORBOARD_LOGGING_DIR")
    roots = [Path(given).expanduser()] if given else [*folder.glob("runs/*")]
    files = [file for root in roots for file in root.glob("events.out.tfevents.*")]
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else None


def _to_wandb(folder: Path) -> None:
    import wandb  # optional

    if wandb.run is not None:
        wandb.run.log({"confusion_matrix": wandb.Image(str(folder / PLOT))})


def _to_mlflow(folder: Path) -> None:
    import mlflow  # optional

    # The Trainer ends the run after the last step, unless the user had started it.
    if (run := mlflow.active_run() or mlflow.last_active_run()) is not None:
        mlflow.MlflowClient().log_artifact(run.info.run_id, str(folder / PLOT), "figures")


_SENDERS: dict[str, Callable[[Path], None]] = {
    "tensorboard": _to_tensorboard,
    "wandb": _to_wandb,
    "mlflow": _to_mlflow,
}
