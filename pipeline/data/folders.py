"""Class folders -> their splits and images, as they lie there.

Owns the listing of folders: which ones are splits, which are classes, and which files are images. What a table
beside the images says is read by `tables`.
"""

import errno
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets

from pipeline.data.splits import reject_misspelled, split_of
from pipeline.errors import PipelineError, list_some
from pipeline.images.decode import IMAGE_EXTENSIONS

logger = logging.getLogger(__name__)


def read_image_folder(root: Path) -> dict[str, datasets.Dataset]:
    """Return the images of class folders, with or without split folders above them.

    The ``imagefolder`` builder is not used: it takes split names for labels, and drops the labels of a tree
    of uneven depth. Here a class is the first folder below the split, and every image under it belongs to it.

    Raises:
        PipelineError: If there are no images, or none in a class folder, or a folder cannot be read.
    """
    try:
        splits = {name: _list_split(folder) for name, folder in _find_split_folders(root).items()}
    except OSError as error:
        raise PipelineError(f"{error.filename}: {error.strerror}.") from error
    except UnicodeEncodeError as error:
        raise PipelineError(f"{root}: a file name is not UTF-8: {error.object!r}.") from error
    if not any(len(split) for split in splits.values()):
        raise PipelineError(f"No images below {root} that end in {' '.join(sorted(IMAGE_EXTENSIONS))}.")
    for name, split in splits.items():
        # Test images without classes are a test split without labels, which is known further up.
        if split_of(name) != "test" and len(split) and split.data.column("label").null_count == len(split):
            raise PipelineError(
                f"{root}: the images of {name} lie in no class folders. "
                "Put each into a folder of its class, as in rose/1.jpg or train/rose/1.jpg."
            )
    return splits


def list_files(folder: Path, *, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Yield the visible files below a folder in order, through links, but not round a loop of links.

    Args:
        folder: Where to begin.
        above: The device and inode of folders that are not entered again.
    """
    identity = _identity(folder)
    if identity in above:
        return
    for entry in visible(folder):
        if _is_folder(entry):
            yield from list_files(Path(entry.path), above=above | {identity})
        elif _is_file(entry):
            yield Path(entry.path)


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder and is not hidden, by name."""
    with os.scandir(folder) as entries:  # unlike iterdir, it knows folders from files without asking for each
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, by name."""
    return [Path(entry.path) for entry in visible(folder) if _is_folder(entry)]


def _find_split_folders(root: Path) -> dict[str, Path]:
    """Return the split folders by name, or the root as the one split.

    ``train`` may also be a class, beside ``car`` and ``bus``: so where other folders stand beside them, they are
    splits only if one has class folders below it.
    """
    folders = visible_folders(root)
    named = {folder.name: folder for folder in folders if split_of(folder.name)}
    others = [folder for folder in folders if folder.name not in named]
    reject_misspelled([folder.name for folder in others if visible_folders(folder)], taken=list(named), where=root)
    if not named or (others and not any(visible_folders(folder) for folder in named.values())):
        return {"train": root}
    if others:
        names = list_some([folder.name for folder in others])
        logger.warning("%s: folders left out beside the splits: %s", root, names)
    return named


def _list_split(folder: Path) -> datasets.Dataset:
    paths: list[str] = []
    labels: list[str | None] = []
    skipped: Counter[str] = Counter()
    empty: list[str] = []
    for class_name, files in _class_folders(folder):
        images = [str(file) for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
        skipped.update(file.suffix for file in files if file.suffix.lower() not in IMAGE_EXTENSIONS)
        paths += images
        labels += [class_name] * len(images)
        if class_name is not None and not images:
            empty.append(class_name)
    if skipped:
        kinds = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in skipped.items())
        logger.warning("%s: files left out that are no images read here: %s", folder, kinds)
    if empty:
        logger.warning("%s: class folders without images are left out: %s", folder, list_some(empty))
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features)


def _class_folders(folder: Path) -> Iterator[tuple[str | None, list[Path]]]:
    """Yield each class with its files, then, without a class, the files that lie directly in the folder."""
    # A link to any of these would bring other classes, or the test images, into this one.
    above = frozenset(_identity(place) for place in (folder, *folder.resolve().parents))
    for class_folder in visible_folders(folder):
        # macOS writes umlauts as two characters, others as one: the same class either way.
        yield unicodedata.normalize("NFC", class_folder.name), list(list_files(class_folder, above=above))
    yield None, [Path(entry.path) for entry in visible(folder) if _is_file(entry)]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself


def _is_file(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return entry.is_file()
    # A link to nothing is kept, so that it is found and named as a bad image; a pipe would hang the reader.
    path = Path(entry.path)
    return path.is_file() or not path.exists()
