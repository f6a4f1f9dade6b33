"""Files of a run: JSON and text, written atomically, and no path of this machine in what is published."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError


def remove_absolute_path(text: str) -> str:
    """Replace absolute paths in a word: below the current folder by the relative one, elsewhere by the last part."""
    flag, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    path = Path(value).expanduser()
    if not path.is_absolute():
        return text
    inside = path.is_relative_to(Path.cwd())
    return f"{flag}{equals}{path.relative_to(Path.cwd()) if inside else path.name}"


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object from a file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old file or the new one, never a part."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a temporary file beside it, flushed to the disk, then renamed."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it takes the place of `path`, durably.

    Raises:
        PipelineError: If the folder cannot be written or is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise PipelineError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Create and write the folder for a moment, then leave everything as it was."""
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
