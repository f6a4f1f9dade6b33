"""Sends the plot of the confusion matrix to the trackers of `--report_to`. The Trainer sends them the curves."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

PLOT = "figures/confusion-matrix.png"


def log_confusion(folder: Path, trackers: Sequence[str]) -> None:
    """Send the confusion matrix to TensorBoard, where the Trainer has logged the curves of this run.

    Nothing is sent without the plot (matplotlib is not installed), or if the Trainer logged nothing.

    Args:
        folder: Run folder.
        trackers: Value of `--report_to`.
    """
    if not {"tensorboard", "all"} & {*trackers} or not (folder / PLOT).is_file():
        return
    if importlib.util.find_spec("tensorboard") is None or (events := _event_folder(folder)) is None:
        return
    from torch.utils.tensorboard import SummaryWriter  # tensorboard is optional

    with PIL.Image.open(folder / PLOT) as plot, SummaryWriter(str(events)) as writer:
        writer.add_image("confusion_matrix", np.asarray(plot.convert("RGB")), dataformats="HWC")


def _event_folder(folder: Path) -> Path | None:
    """Return the folder of the newest event file of the run, None if there is none."""
    given = os.environ.get("TENSORBOARD_LOGGING_DIR")
    roots = [Path(given).expanduser()] if given else [*folder.glob("runs/*")]
    files = [file for root in roots for file in root.glob("events.out.tfevents.*")]
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else None
