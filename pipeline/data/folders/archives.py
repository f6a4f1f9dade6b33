"""Archives: recognize them in place of a dataset, and say how to unpack them."""

import shlex
from collections.abc import Iterable
from pathlib import Path

_UNTAR = "mkdir {folder} && tar -xf {file} -C {folder}"
_COMMANDS = {  # ending of an archive -> the command that unpacks it
    ".zip": "unzip {file} -d {folder}",
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"), _UNTAR),
    ".rar": "unrar x {file} {folder}/",
    ".7z": "7z x {file} -o{folder}",
    ".gz": "gunzip --keep {file}",
}


def find_archives(files: Iterable[Path]) -> list[Path]:
    """Return the files that are archives, by their extension."""
    return [file for file in files if _ending(file)]


def unpack_command(archive: Path) -> str:
    """Return the shell command that unpacks an archive into a new folder next to it."""
    ending = _ending(archive)
    folder = archive.with_name(archive.name[: -len(ending)])
    return _COMMANDS[ending].format(file=shlex.quote(str(archive)), folder=shlex.quote(str(folder)))


def _ending(file: Path) -> str:
    return next((ending for ending in _COMMANDS if file.name.lower().endswith(ending)), "")
