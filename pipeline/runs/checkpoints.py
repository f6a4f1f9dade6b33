"""Checkpoints: a manifest that shows whether one is complete and intact, which ones are kept, and which are unusable.

The manifest is written last and lists every file with its size and hash. A checkpoint without it does not count.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import xxhash

from pipeline.errors import PipelineError
from pipeline.runs.files import (
    atomic_write,
    describe_file,
    find_damaged_file,
    flush,
    flush_folder,
    read_json,
    set_permissions,
    write_json,
)

logger = logging.getLogger(__name__)

TRAINING_WEIGHTS = "training_weights.safetensors"
"""The weights that a resume loads from a checkpoint, if they differ from `model.safetensors`."""
MANIFEST = "manifest.json"
KEPT_WHILE_TRAINING = 2
"""The newest checkpoints that are kept at least, in case that the newest one is damaged later."""

_UNUSABLE = "unusable-"


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints in a run folder, usable or not, the newest first."""
    names = [path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is complete and intact, or None."""
    paths = (checkpoint_folder(folder, step) for step in saved_steps(folder))
    return next((path for path in paths if find_damage(path) is None), None)


def seal(checkpoint: Path) -> None:
    """Flush the files of a checkpoint to disk, give them the usual permissions, and write the manifest."""
    files = sorted(path for path in checkpoint.iterdir() if path.name != MANIFEST)
    for path in files:
        set_permissions(path)
        flush(path)
    _write_manifest(checkpoint, {path.name: describe_file(path) for path in files})
    flush_folder(checkpoint.parent)


def add_file(checkpoint: Path, name: str, content: bytes) -> None:
    """Add a file to a sealed checkpoint, unless it has it. A kill in between leaves the checkpoint as it was."""
    files = read_json(checkpoint / MANIFEST)["files"]
    described = [len(content), xxhash.xxh3_128_hexdigest(content)]
    if files.get(name) == described:
        return
    with atomic_write(checkpoint / name) as temporary:
        temporary.write_bytes(content)
    _write_manifest(checkpoint, files | {name: described})


def _write_manifest(checkpoint: Path, files: Mapping[str, list[int | str]]) -> None:
    write_json(checkpoint / MANIFEST, {"files": files, "hash": _hash(files)})


def listed_files(checkpoint: Path) -> list[Path]:
    """Return the files of a sealed checkpoint, with its manifest as the last one."""
    return [checkpoint / name for name in (*read_json(checkpoint / MANIFEST)["files"], MANIFEST)]


def find_damage(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be used, or None if every file is as it was saved."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
        files: dict[str, list[int | str]] = manifest["files"]
        return find_damaged_file(checkpoint, files) if manifest["hash"] == _hash(files) else f"{MANIFEST} is damaged"
    except FileNotFoundError:
        return f"{MANIFEST} is missing: its save was interrupted"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"


def _hash(files: object) -> str:
    """Return a hash of the list of files, so that damage to a name in it is found too."""
    return xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())


def require_intact(checkpoint: Path) -> None:
    """Check the manifest of a checkpoint.

    Raises:
        PipelineError: If the checkpoint cannot be used.
    """
    if (damage := find_damage(checkpoint)) is not None:
        raise PipelineError(
            f"{checkpoint} is the best checkpoint and cannot be used ({damage}): repeat the command, which trains it "
            "again from an older checkpoint"
        )


def set_aside(checkpoint: Path, reason: str) -> None:
    """Rename a checkpoint, so that nothing uses it, and log the reason."""
    logger.warning("%s is not used and is set aside: %s", checkpoint.name, reason)
    aside = checkpoint.with_name(_UNUSABLE + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    if checkpoint.is_dir():
        checkpoint.rename(aside)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint. A kill in between leaves one without a manifest, which does not count."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def rotate(folder: Path, *, best: int | None, keep: int | None) -> None:
    """Remove old checkpoints.

    Args:
        folder: The run folder.
        best: Step of the best checkpoint, which stays.
        keep: Number of newest checkpoints that stay. None: all.
    """
    for step in saved_steps(folder)[keep:] if keep is not None else []:
        if step != best:
            discard(checkpoint_folder(folder, step))


def clean_up(folder: Path) -> None:
    """Remove the checkpoints that were set aside."""
    for path in folder.glob(f"{_UNUSABLE}checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def require_space(checkpoint: Path, needed: int) -> None:
    """Check that a checkpoint fits on its disk.

    Args:
        checkpoint: Its folder.
        needed: Its size in bytes.

    Raises:
        PipelineError: If it does not fit.
    """
    free = shutil.disk_usage(checkpoint.parent).free
    if free < needed:
        raise full_disk(checkpoint, needed, f"{free} are free")


def full_disk(checkpoint: Path, needed: int, reason: str) -> PipelineError:
    """Return the error for a checkpoint that cannot be written."""
    return PipelineError(
        f"cannot save {checkpoint}, which needs {needed} bytes ({reason}): free disk space, then repeat the command to "
        "resume from the checkpoint before"
    )
