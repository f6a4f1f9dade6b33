"""Class folders: list their image files by split and class, and name what is not read.

`levels` decides which folders are splits and which are classes. `images.files` lists files.
"""

import contextlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import datasets

from pipeline.data.folders.levels import Split, enter_wrappers, find_splits
from pipeline.data.splits import canonical_split
from pipeline.errors import PipelineError, list_some, raise_problems
from pipeline.images.decode import IMAGE_EXTENSIONS
from pipeline.images.files import (
    device_and_inode,
    is_file,
    list_files,
    list_visible,
    list_visible_folders,
)
from pipeline.progress import show_life

logger = logging.getLogger(__name__)


def read_image_folder(root: Path, *, class_names: Collection[str] = ()) -> dict[str, datasets.Dataset]:
    """List the images of class folders, with split folders above or below them, or without split folders.

    The ``imagefolder`` builder of `datasets` is not used, because it treats split names as labels and drops the
    labels when folders have different depths. Here each folder directly below the split is a class, and all images
    at any depth below it belong to this class.

    Args:
        root: The folder of the dataset. If it holds only one folder, that folder is read.
        class_names: Names that the user listed. They decide if two levels of folders can be the classes.

    Returns:
        Splits with `image` (paths, not decoded) and `label` (the class name, or None outside class folders).

    Raises:
        PipelineError: If images are missing, all images are outside class folders, the folders can be read in two
            ways, or a folder cannot be read.
    """
    try:
        found = find_splits(enter_wrappers(root), class_names=class_names)
        splits = {name: _list_split(split) for name, split in found.items()}
        _warn_of_unread_images(root, found.values())
        _warn_of_siblings(root)
    except OSError as error:
        raise PipelineError(f"{error.filename} cannot be read: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise PipelineError(f"{root}: the file name {error.object!r} is not valid UTF-8: rename the file") from error
    if not any(len(split) for split in splits.values()):
        extensions = " ".join(sorted(IMAGE_EXTENSIONS))
        raise PipelineError(f"{root} contains no supported images: add files with one of the extensions {extensions}")
    # A test split without class folders is an unlabeled test split. `sources` removes it.
    raise_problems(
        f"{root}: the images of {name} are not in class folders: "
        "move each image into a folder named after its class, for example rose/1.jpg or train/rose/1.jpg"
        for name, split in splits.items()
        if canonical_split(name) != "test" and len(split) and split.data.column("label").null_count == len(split)
    )
    return splits


def _warn_of_unread_images(root: Path, splits: Iterable[Split]) -> None:
    """Log the number of images that are neither in a class folder nor directly in the folder of a split."""
    classes = {folder for split in splits for _, folder in split.classes}
    own = {split.folder for split in splits if split.has_own_files}
    unread = [
        file
        for file in list_files(root, without=classes)
        if file.parent not in own and file.suffix.lower() in IMAGE_EXTENSIONS
    ]
    if unread:
        counts = Counter(str(file.parent.relative_to(root)) for file in unread)
        folders = ", ".join(f"{count} in {name!r}" for name, count in counts.most_common(5))
        more = f" and {len(counts) - 5} more folders" if len(counts) > 5 else ""
        logger.warning(
            "%s: ignoring %d images outside the folders that are read: %s%s", root, len(unread), folders, more
        )


def _warn_of_siblings(root: Path) -> None:
    """Log a warning if the dataset is a train folder with other split folders next to it."""
    folder = root.resolve()
    if canonical_split(folder.name) != "train":
        return
    with contextlib.suppress(OSError):
        names = [sibling.name for sibling in list_visible_folders(folder.parent)]
        if siblings := [name for name in names if canonical_split(name) in ("validation", "test")]:
            logger.warning(
                "%s: not reading the splits next to it (%s); --dataset_name %s reads all splits",
                *(root, ", ".join(siblings), root.parent),
            )


def _list_split(split: Split) -> datasets.Dataset:
    paths: list[str] = []
    labels: list[str | None] = []
    ignored: Counter[str] = Counter()
    empty: list[str] = []
    with show_life(lambda: f"listing {split.folder}: {len(paths)} images"):
        for class_name, files in _class_files(split):
            images = [str(file) for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
            ignored.update(file.suffix for file in files if file.suffix.lower() not in IMAGE_EXTENSIONS)
            paths += images
            labels += [class_name] * len(images)
            if class_name is not None and not images:
                empty.append(class_name)
    if ignored:
        counts = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in ignored.items())
        logger.warning("%s: ignoring %d files that are not supported images: %s", split.folder, ignored.total(), counts)
    if empty:
        logger.warning("%s: ignoring %d class folders without images: %s", split.folder, len(empty), list_some(empty))
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features)


def _class_files(split: Split) -> Iterator[tuple[str | None, list[Path]]]:
    """Yield each class name with its files, then None with the files that are outside the class folders."""
    # Following a link to one of these folders would add other classes or the test images to this class.
    ancestors = frozenset(device_and_inode(parent) for parent in (split.folder, *split.folder.resolve().parents))
    # macOS writes an umlaut as two characters and other systems write it as one. NFC makes both the same class, but
    # two such folders next to each other stay two classes, which are then rejected.
    composed = {name: unicodedata.normalize("NFC", name) for name, _ in split.classes}
    twice = Counter(composed.values())
    for name, folder in split.classes:
        yield composed[name] if twice[composed[name]] == 1 else name, list(list_files(folder, ancestors=ancestors))
    if split.has_own_files:
        yield None, [Path(entry.path) for entry in list_visible(split.folder) if is_file(entry)]
