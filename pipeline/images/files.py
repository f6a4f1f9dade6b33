"""Files in folders: list the visible ones, and follow links.

Owns which files and folders are ignored everywhere (hidden ones, and those that operating systems add).
"""

import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.images.decode import IMAGE_EXTENSIONS
from pipeline.watchdog import reading

# Files and folders that operating systems and archives add.
_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir", "lost+found"}


def list_files(
    folder: Path, *, ancestors: frozenset[tuple[int, int]] = frozenset(), without: Collection[Path] = ()
) -> Iterator[Path]:
    """Yield all visible files below a folder, sorted by name. Follow links, but stop at link loops.

    Args:
        folder: The folder to list.
        ancestors: Device and inode of the folders that must not be entered again.
        without: Paths of folders that are not entered.
    """
    identity = device_and_inode(folder)
    if identity in ancestors:
        return
    for entry in list_visible(folder):
        if is_folder(entry):
            if (path := Path(entry.path)) not in without:
                yield from list_files(path, ancestors=ancestors | {identity}, without=without)
        elif is_file(entry):
            yield Path(entry.path)


def list_visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden and not litter of an operating system, sorted by name."""
    # Unlike iterdir, scandir knows the type of each entry without another system call.
    with reading(str(folder)), os.scandir(folder) as entries:
        return sorted(filter(_is_visible, entries), key=lambda entry: entry.name)


def list_visible_folders(folder: Path) -> list[Path]:
    """Return the subfolders of a folder that are not hidden, sorted by name."""
    return [Path(entry.path) for entry in list_visible(folder) if is_folder(entry)]


def _is_visible(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name.lower() not in _LITTER


def is_empty(folder: Path) -> bool:
    """Return whether a folder has no visible entry."""
    with reading(str(folder)), os.scandir(folder) as entries:
        return not any(map(_is_visible, entries))


def holds_only_folders(folder: Path) -> bool:
    """Return whether there are folders and no images directly in a folder."""
    has_folders = False
    with reading(str(folder)), os.scandir(folder) as entries:
        for entry in filter(_is_visible, entries):
            if is_folder(entry):
                has_folders = True
            elif Path(entry.name).suffix.lower() in IMAGE_EXTENSIONS:
                return False  # at the first image, because a class folder can have many
    return has_folders


def device_and_inode(folder: Path) -> tuple[int, int]:
    """Return what identifies a folder, whatever the links in its path."""
    with reading(str(folder)):
        status = folder.stat()
    return status.st_dev, status.st_ino


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        if not entry.is_symlink():
            return entry.is_dir()
        with reading(entry.path):  # its target can be on another disk
            return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link that points to itself


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is anything but a folder.

    A broken link, a named pipe, a socket and a device stay in the list, so that they are reported as unreadable images.
    """
    return not is_folder(entry)
