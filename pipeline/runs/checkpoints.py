"""Checkpoints: which files a resume needs, and which checkpoint is complete."""

import contextlib
import json
import zipfile
from pathlib import Path

from pipeline.runs.files import read_json
from pipeline.runs.folder import TRAINER_STATE

TRAINING_WEIGHTS = "training_weights.safetensors"
"""In a checkpoint: what a resume goes on from, where that is not `model.safetensors` itself."""

# Files of a checkpoint without which a resumed run would differ. The Trainer writes its state last, but a
# missing optimizer or scheduler restarts the learning rate without a word, so all of them are asked for.
CHECKPOINT_FILES = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", TRAINER_STATE)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The newest `checkpoint-<step>` with every file a resume needs, each of them whole; None if there is none."""
    steps = {int(p.name.removeprefix("checkpoint-")): p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()}
    for _, path in sorted(steps.items(), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            random = list(path.glob("rng_state*.pth"))
            own = list(path.glob(TRAINING_WEIGHTS))
            if random and all(_is_whole(file) for file in (*random, *own, *(path / name for name in CHECKPOINT_FILES))):
                return path
    return None


def _is_whole(file: Path) -> bool:
    """Whether a file of a checkpoint ends where it says: the Trainer flushes none of them to the disk.

    Raises:
        OSError, ValueError: If it is missing or has no readable beginning.
    """
    if file.suffix == ".json":
        return bool(read_json(file))
    if file.suffix != ".safetensors":
        return zipfile.is_zipfile(file)  # which looks for the directory at its end
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(file.stat().st_size == 8 + length + max(ends))
