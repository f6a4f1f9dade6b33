"""Checkpoints: the files that a resume needs, and the newest complete checkpoint."""

import contextlib
import json
import zipfile
from pathlib import Path

from pipeline.runs.files import read_json
from pipeline.runs.folder import TRAINER_STATE

TRAINING_WEIGHTS = "training_weights.safetensors"
"""The weights that a resume loads from a checkpoint, if they differ from `model.safetensors`."""

# A resume needs all of these files. The Trainer does not complain about a missing optimizer or scheduler: it silently
# restarts the learning rate schedule.
CHECKPOINT_FILES = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", TRAINER_STATE)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest `checkpoint-<step>` whose files all exist and are complete, or None."""
    steps = {int(p.name.removeprefix("checkpoint-")): p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()}
    for _, path in sorted(steps.items(), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            random_states = list(path.glob("rng_state*.pth"))
            files = [*random_states, *path.glob(TRAINING_WEIGHTS), *(path / name for name in CHECKPOINT_FILES)]
            if random_states and all(map(_is_complete, files)):
                return path
    return None


def _is_complete(file: Path) -> bool:
    """Return whether a checkpoint file has its full length. A crash can truncate it: the Trainer does not flush files.

    Raises:
        OSError, ValueError: If the file is missing or its header cannot be read.
    """
    if file.suffix == ".json":
        return bool(read_json(file))
    if file.suffix != ".safetensors":
        return zipfile.is_zipfile(file)  # It checks the directory at the end of the file.
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(file.stat().st_size == 8 + length + max(ends))
