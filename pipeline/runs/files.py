"""Files of a run: atomic writes, JSON, and removal of absolute paths."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import xxhash
import yaml

from pipeline.config.names import as_path
from pipeline.errors import PipelineError

_STALE_SECONDS = 3 * 24 * 3600.0


def remove_absolute_path(text: str) -> str:
    """Replace an absolute path in a command-line word, so that no path of this machine is published.

    Args:
        text: A path, a flag with a path (`--flag=path`), or any other word. Other words are returned unchanged.

    Returns:
        The path relative to the current folder if it is below it, otherwise its last part.
    """
    flag, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    path = as_path(value)
    if not path.is_absolute():
        return text
    below = path.is_relative_to(Path.cwd())
    return f"{flag}{equals}{path.relative_to(Path.cwd()) if below else path.name}"


def dataset_folder(dataset_name: str | None) -> str:
    """Return the absolute path of a dataset's folder; its name is a folder, a file in the folder, or anything else."""
    path = as_path(dataset_name or "")
    return os.path.abspath(path.parent if path.is_file() else path)  # noqa: PTH100 (keeps links)


def path_in_dataset(path: str, folder: str) -> str:
    """Return the path of an image relative to the folder of its dataset, or only its name if it is not in the folder.

    Args:
        path: Path on this machine, or on the machine of whoever made the dataset.
        folder: From `dataset_folder`.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100
    inside = absolute.startswith(folder.rstrip("/") + "/")
    return absolute[len(folder.rstrip("/")) + 1 :] if inside else re.split(r"[/\\]", path)[-1]


def absolute_if_local(name: str) -> str:
    """Return the absolute path of an existing file or folder, and any other name (such as a Hub id) as it is."""
    path = as_path(name)
    return os.path.abspath(path) if path.exists() else name  # noqa: PTH100 (keeps links)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically: a reader sees the old file or the new file, never a partial one."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, see `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder. If the block succeeds, flush the file to disk and rename it to `path`.

    Raises:
        PipelineError: If the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise PipelineError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def describe_file(path: Path) -> list[int | str]:
    """Return the size and the hash of a file. XXH3 (128 bits) finds damage, and costs a fifth of SHA-256."""
    with path.open("rb") as stream:
        return [path.stat().st_size, hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()]  # type: ignore[arg-type]


def find_damaged_file(folder: Path, files: dict[str, list[int | str]]) -> str | None:
    """Return which of the files differs from its description, or None.

    Args:
        folder: The folder of the files.
        files: Size and hash by name, from `describe_file`.
    """
    for name, (size, digest) in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        found_size, found_digest = describe_file(folder / name)
        if found_size != size:
            return f"{name} is damaged ({found_size} bytes, {size} expected)"
        if found_digest != digest:
            return f"{name} is damaged (its content has changed)"
    return None


@contextlib.contextmanager
def explain_unreadable(path: Path, *, remedy: str) -> Iterator[None]:
    """Convert the errors of reading a damaged or missing file of a run to a `PipelineError` of one line."""
    try:
        yield
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]
        raise PipelineError(f"{path} cannot be read ({reason}): {remedy}") from error


def remove_stale_files(folder: Path) -> None:
    """Remove the temporary files of `atomic_write` whose process was killed. Call it while the folder is locked."""
    for path in folder.glob(".*.*"):
        process = path.name.rpartition(".")[2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)


def remove_stale_folders(parent: Path, pattern: str) -> None:
    """Remove the temporary folders that killed commands left: those that have not changed for some days."""
    oldest = time.time() - _STALE_SECONDS
    for path in parent.glob(pattern):
        with contextlib.suppress(OSError):  # another command removed it
            if path.is_dir() and not path.is_symlink() and path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def flush(path: Path) -> None:
    """Write the content of a file to the disk, so that it outlives a power failure."""
    with path.open("rb") as opened:
        os.fsync(opened.fileno())


def flush_folder(folder: Path) -> None:
    """Write the names in a folder to the disk. File systems that cannot do it are used as they are."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_permissions(path: Path) -> None:
    """Give a file the permissions that the umask asks for: safetensors writes files that only their owner can read."""
    umask = os.umask(0o077)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def check_writable(folder: Path) -> None:
    """Check that files can be written into the folder. Everything that the check creates is removed.

    Raises:
        PipelineError: If the folder cannot be created or written.
    """
    created = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PipelineError(f"cannot write into {folder} ({error.strerror}): choose another --output_dir") from error
    finally:
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()
