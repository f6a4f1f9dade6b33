"""Image paths of a table: find the image files, also where a path does not exist as it is written.

Owns the rules by which an image file below the folder of the table belongs to a path that does not exist: separators
of Windows, a missing extension, a path of another machine, another case, or only the file name.
"""

import difflib
import functools
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipeline.data.folders.archives import find_archives, unpack_command
from pipeline.data.splits import canonical_split, find_split_word
from pipeline.data.tables.files import EXTENSIONS, contains_images
from pipeline.errors import list_some, raise_problems
from pipeline.images.decode import IMAGE_EXTENSIONS
from pipeline.images.files import is_folder, list_files, list_visible_folders
from pipeline.watchdog import reading

logger = logging.getLogger(__name__)

_SEPARATORS = re.compile(r"[\\/]|\?d=")  # Label Studio writes /data/local-files/?d=images/1.jpg
_MAX_COMPARED = 20_000  # the nearest match for a message is searched among this many file names


class ImageFolder:
    """The folder of one or several tables, and the files below it. They are listed once, and only if needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, frozenset[str] | None] = {}

    def find(self, written: Sequence[str | None], *, table: Path, split: str | None) -> list[str | None]:
        """Return the path of the image file for each path of a table.

        Paths are relative to the folder of the table. For a path that does not exist, the file below this folder is
        used whose path ends with the most components of it. Log what was done.

        Args:
            written: The paths in the table, or None for rows without a path.
            table: The table, for messages.
            split: The split that the name of the table says. Its images are not looked for in folders of other splits.

        Returns:
            Paths, as strings. A path that is not found is returned as it is written, relative to the folder.

        Raises:
            PipelineError: If several files match a path equally well.
        """
        paths = [self._join(path) if path else None for path in written]
        missing = {path: None for path, full in zip(written, paths, strict=True) if full and not self.exists(full)}
        if not missing:
            return paths
        matches = {path: files for path in missing if path and (files := self._match(path, split))}
        raise_problems(
            f"{table}: the image {path!r} does not exist, and several files match it: "
            f"{list_some([str(file) for file in files])}: write the path relative to the folder of the table, "
            "or remove all but one of the files"
            for path, files in list(matches.items())[:5]
            if len(files) > 1
        )
        existing = {full for path, full in zip(written, paths, strict=True) if path not in missing}
        found = self._without_conflicts({path: files[0] for path, files in matches.items()}, existing)
        self._log(missing=[path for path in missing if path], found=found, table=table)
        return [found.get(path, full) if path else None for path, full in zip(written, paths, strict=True)]

    def warn_of_unlisted(self, listed: Iterable[str | None], *, table_folders: Collection[Path]) -> None:
        """Log a warning for all images below this folder that no table lists, and for tables in other folders.

        A folder directly below this one without any listed image is only named, because it can be a large dataset.

        Args:
            listed: The paths that the tables list.
            table_folders: The folders in which tables were looked for.
        """
        root = f"{self.folder}/"
        used = {inside for path in listed if path and (inside := self.relative(path))}
        entered = {path.partition("/")[0] for path in used}
        others = [sub for sub in list_visible_folders(self.folder) if sub.name not in entered]
        files = [str(file.relative_to(self.folder)) for file in list_files(self.folder, without=others)]
        if unlisted := [file for file in files if _is_image(file) and file not in used]:
            logger.warning("%s: ignoring %d images that no table lists: %s", root, len(unlisted), list_some(unlisted))
        looked_in = {self.folder, *table_folders}
        tables = [file for file in files if file.lower().endswith(EXTENSIONS)]
        if deeper := [file for file in tables if (self.folder / file).parent not in looked_in]:
            logger.warning("%s: ignoring %d tables in folders of images: %s", root, len(deeper), list_some(deeper))
        if ignored := [sub.name for sub in others if contains_images(sub)]:
            logger.warning("%s: ignoring folders with images that no table lists: %s", root, list_some(ignored))

    def relative(self, path: str) -> str | None:
        """Return a path relative to this folder, whatever the spelling of both, or None if it is outside."""
        if path.startswith(f"{self.folder}/") and "/../" not in path:
            return path[len(f"{self.folder}/") :]
        for normalize in (os.path.abspath, os.path.realpath):
            inside = os.path.relpath(normalize(path), normalize(self.folder))
            if inside.partition("/")[0] != "..":
                return inside
        return None

    def _join(self, path: str) -> str:
        if "./" in path or "//" in path:
            return str(self.folder / path)
        return path if path.startswith("/") else f"{self.folder}/{path}"

    def exists(self, path: str) -> bool:
        """Return whether a path returned by `find` is a file. A folder of this name is not an image."""
        folder, _, name = path.rpartition("/")
        names = self._list(folder)
        if names is not None:
            return name in names
        with reading(path):
            return os.path.lexists(path) and not Path(path).is_dir()

    def _list(self, folder: str) -> frozenset[str] | None:
        """Return the files in a folder, or None if it cannot be listed. One call is faster than one per file."""
        if folder not in self._names:
            try:
                with reading(folder), os.scandir(folder or "/") as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries if not is_folder(entry))
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
            except OSError:  # for example a folder whose files may be read, but not listed
                self._names[folder] = None
        return self._names[folder]

    @functools.cached_property
    def _files(self) -> dict[str, list[PurePosixPath]]:
        """The files below the folder by name, and the images also by name without extension."""
        files = defaultdict(list)
        for path in list_files(self.folder):
            file = PurePosixPath(path.relative_to(self.folder))
            files[_key(file.name)].append(file)
            if _is_image(file.name):
                files[_key(file.stem)].append(file)
        return dict(files)

    @functools.cached_property
    def _splits(self) -> set[str]:
        """The splits that have a folder."""
        folders = {folder for files in self._files.values() for file in files for folder in file.parts[:-1]}
        return {split for folder in folders if (split := _split_of(folder))}

    def _match(self, path: str, split: str | None) -> list[PurePosixPath]:
        """Return the files that match a path best. There are several if they match it equally well."""
        parts = _components(path)
        files = self._files.get(_key(parts[-1])) if parts else None
        if not files:
            return []
        if split is not None and canonical_split(split) in self._splits:
            files = [file for file in files if _split_of(*file.parts[:-1]) in (None, canonical_split(split))]
        scores = {file: _score(parts, file) for file in files}
        return [file for file, score in scores.items() if score == max(scores.values())]

    def _without_conflicts(self, found: dict[str, PurePosixPath], existing: set[str | None]) -> dict[str, str]:
        """Return the found files without those that other paths name too, if only the end of the path matches.

        ``cats/1.jpg`` must not be found as ``dogs/1.jpg``, which is the image of another row.
        """
        claims = defaultdict(list)
        for path, file in found.items():
            claims[file].append(path)
        full = {path: f"{self.folder}/{file}" for path, file in found.items()}
        return {
            path: full[path]
            for path, file in found.items()
            if _is_complete(path, file) or (full[path] not in existing and len(claims[file]) == 1)
        }

    def _log(self, *, missing: Sequence[str], found: dict[str, str], table: Path) -> None:
        if found:
            path, file = next(iter(found.items()))
            logger.info(
                "%s: %d of %d image paths that do not exist were found below %s by their names (for example %r is %r)",
                table.name,
                len(found),
                len(missing),
                self.folder,
                path,
                file.removeprefix(f"{self.folder}/"),
            )
        if lost := [path for path in missing if path not in found]:
            logger.warning(
                "%s: %d images were not found: neither relative to the folder of the table, %s, nor by name below it "
                "(first: %r%s)%s",
                table.name,
                len(lost),
                self.folder,
                lost[0],
                self._nearest(lost[0]),
                self._unpack_first(),
            )

    def _nearest(self, path: str) -> str:
        parts = _components(path)
        names = list(self._files)[:_MAX_COMPARED]
        key = _key(PurePosixPath(parts[-1]).stem) if parts else ""
        nearest = [key] if key in self._files else difflib.get_close_matches(key, names, n=1)
        return f", nearest match: {str(self._files[nearest[0]][0])!r}" if nearest else ", no similar file"

    def _unpack_first(self) -> str:
        archives = find_archives(self.folder / file for files in self._files.values() for file in files)
        return f"; unpack {archives[0].name} first: {unpack_command(archives[0])}" if archives else ""


def _components(path: str) -> list[str]:
    r"""Return the names in a path, also of ``C:\images\1.jpg`` and ``/data/local-files/?d=images/1.jpg``."""
    parts = _SEPARATORS.split(path.strip()) if "\\" in path or "?" in path else path.strip().split("/")
    return [part for part in parts if part not in ("", ".", "..")]


def _score(parts: Sequence[str], file: PurePosixPath) -> tuple[int, int]:
    """Return how many components match from the end, and how many of them exactly."""
    pairs = list(zip(reversed(parts), reversed(file.parts), strict=False))
    length = 1 + next((n for n, (a, b) in enumerate(pairs[1:]) if _key(a) != _key(b)), len(pairs) - 1)
    return length, sum(a == b or (n == 0 and a == file.stem) for n, (a, b) in enumerate(pairs[:length]))


def _is_complete(path: str, file: PurePosixPath) -> bool:
    """Return whether one path is the end of the other one."""
    parts = _components(path)
    return _score(parts, file)[0] == min(len(parts), len(file.parts))


def _key(name: str) -> str:
    # macOS writes an umlaut as two characters and other systems write it as one.
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _is_image(name: str) -> bool:
    return name.lower().endswith(tuple(IMAGE_EXTENSIONS))


def _split_of(*folders: str) -> str | None:
    """Return the split that a name in the path of an image says, such as ``train`` for ``train_images``."""
    words = (find_split_word(folder) for folder in folders)
    return next((canonical_split(word) for word in words if word), None)
