"""Class folders: list their splits, classes and image files.

Owns the rules that decide which folders are splits, which are classes, and which files are images. `tables` reads
tables of labels that are stored next to the images.
"""

import errno
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets

from pipeline.data.splits import canonical_split, reject_misspelled_splits
from pipeline.errors import PipelineError, list_some
from pipeline.images.decode import IMAGE_EXTENSIONS

logger = logging.getLogger(__name__)


def read_image_folder(root: Path) -> dict[str, datasets.Dataset]:
    """List the images of class folders, with or without split folders above them.

    The ``imagefolder`` builder of `datasets` is not used, because it treats split names as labels and drops the
    labels when folders have different depths. Here each folder directly below the split is a class, and all images
    at any depth below it belong to this class.

    Returns:
        Splits with `image` (paths, not decoded) and `label` (the class name, or None outside class folders).

    Raises:
        PipelineError: If there are no images, no image is in a class folder, or a folder cannot be read.
    """
    try:
        splits = {name: _list_split(folder) for name, folder in _find_split_folders(root).items()}
    except OSError as error:
        raise PipelineError(f"{error.filename} cannot be read: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise PipelineError(f"{root}: the file name {error.object!r} is not valid UTF-8: rename the file") from error
    if not any(len(split) for split in splits.values()):
        extensions = " ".join(sorted(IMAGE_EXTENSIONS))
        raise PipelineError(f"{root} contains no supported images: add files with one of the extensions {extensions}")
    for name, split in splits.items():
        # A test split without class folders is an unlabeled test split. `sources` removes it.
        if canonical_split(name) != "test" and len(split) and split.data.column("label").null_count == len(split):
            raise PipelineError(
                f"{root}: the images of {name} are not in class folders: "
                "move each image into a folder named after its class, for example rose/1.jpg or train/rose/1.jpg"
            )
    return splits


def list_files(folder: Path, *, ancestors: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Yield all visible files below a folder, sorted by name. Follow links, but stop at link loops.

    Args:
        folder: The folder to list.
        ancestors: Device and inode of the folders that must not be entered again.
    """
    identity = _device_and_inode(folder)
    if identity in ancestors:
        return
    for entry in list_visible(folder):
        if _is_folder(entry):
            yield from list_files(Path(entry.path), ancestors=ancestors | {identity})
        elif _is_file(entry):
            yield Path(entry.path)


def list_visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:  # unlike iterdir, scandir knows each entry's type without another system call
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def list_visible_folders(folder: Path) -> list[Path]:
    """Return the subfolders of a folder that are not hidden, sorted by name."""
    return [Path(entry.path) for entry in list_visible(folder) if _is_folder(entry)]


def _find_split_folders(root: Path) -> dict[str, Path]:
    """Return the split folders by name, or the root as the only split.

    ``train`` can also be a class, next to ``car`` and ``bus``. If there are folders with other names, the folders
    with split names are splits only if at least one of them contains class folders.
    """
    folders = list_visible_folders(root)
    split_folders = {folder.name: folder for folder in folders if canonical_split(folder.name)}
    others = [folder for folder in folders if folder.name not in split_folders]
    nested = [folder.name for folder in others if list_visible_folders(folder)]
    reject_misspelled_splits(nested, split_names=list(split_folders), folder=root)
    if not split_folders or (others and not any(map(list_visible_folders, split_folders.values()))):
        return {"train": root}
    if others:
        names = list_some([folder.name for folder in others])
        logger.warning("%s: ignoring folders that are not splits: %s", root, names)
    return split_folders


def _list_split(folder: Path) -> datasets.Dataset:
    paths: list[str] = []
    labels: list[str | None] = []
    ignored: Counter[str] = Counter()
    empty: list[str] = []
    for class_name, files in _class_folders(folder):
        images = [str(file) for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
        ignored.update(file.suffix for file in files if file.suffix.lower() not in IMAGE_EXTENSIONS)
        paths += images
        labels += [class_name] * len(images)
        if class_name is not None and not images:
            empty.append(class_name)
    if ignored:
        counts = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in ignored.items())
        logger.warning("%s: ignoring %d files that are not supported images: %s", folder, ignored.total(), counts)
    if empty:
        logger.warning("%s: ignoring %d class folders without images: %s", folder, len(empty), list_some(empty))
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features)


def _class_folders(folder: Path) -> Iterator[tuple[str | None, list[Path]]]:
    """Yield each class name with its files, then None with the files that are directly in the folder."""
    # Following a link to one of these folders would add other classes or the test images to this class.
    ancestors = frozenset(_device_and_inode(parent) for parent in (folder, *folder.resolve().parents))
    for class_folder in list_visible_folders(folder):
        # macOS writes an umlaut as two characters and other systems write it as one. NFC makes both the same class.
        yield unicodedata.normalize("NFC", class_folder.name), list(list_files(class_folder, ancestors=ancestors))
    yield None, [Path(entry.path) for entry in list_visible(folder) if _is_file(entry)]


def _device_and_inode(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link that points to itself


def _is_file(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return entry.is_file()
    # A broken link stays in the list, so that it is reported as an unreadable image. A named pipe is excluded,
    # because reading it would block.
    path = Path(entry.path)
    return path.is_file() or not path.exists()
