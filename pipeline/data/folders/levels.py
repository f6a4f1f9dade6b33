"""Levels of folders: decide which folders are the splits of a dataset and which are its classes."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.splits import canonical_split, reject_misspelled_splits
from pipeline.errors import PipelineError, list_some, raise_problems
from pipeline.images.decode import IMAGE_EXTENSIONS
from pipeline.images.files import (
    device_and_inode,
    holds_only_folders,
    is_empty,
    is_folder,
    list_visible,
    list_visible_folders,
)

logger = logging.getLogger(__name__)

_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Split:
    """The folders of a split.

    Attributes:
        folder: The folder of the split.
        classes: Each class name with its folder. Several folders can have the same class.
        has_own_files: Whether the files directly in ``folder`` belong to the split.
    """

    folder: Path
    classes: Sequence[tuple[str, Path]]
    has_own_files: bool = True


def enter_wrappers(root: Path) -> Path:
    """Return the folder below the wrapper folders: folders that hold nothing but one folder."""
    folder = _unwrap(root)
    if folder != root:
        wrappers = [parent for parent in folder.parents if parent.is_relative_to(root)]
        files = sum(len(list_visible(wrapper)) - 1 for wrapper in wrappers)
        ignored = f"; ignoring {files} files outside it" if files else ""
        logger.warning("%s: reading its only folder, %s%s", root, folder.relative_to(root), ignored)
    return folder


def _unwrap(folder: Path) -> Path:
    seen = set()
    while (identity := device_and_inode(folder)) not in seen:  # a link can lead back to a wrapper
        seen.add(identity)
        entries = list_visible(folder)
        folders = [Path(entry.path) for entry in entries if is_folder(entry)]
        has_rows = any(Path(entry.name).suffix.lower() in IMAGE_EXTENSIONS.union(_TABLES) for entry in entries)
        if has_rows or len(folders) != 1 or canonical_split(folders[0].name):
            break
        has_table = any(Path(entry.name).suffix.lower() in _TABLES for entry in list_visible(folders[0]))
        if not (has_table or holds_only_folders(folders[0])):
            break
        folder = folders[0]
    return folder


def find_splits(root: Path, *, class_names: Collection[str]) -> dict[str, Split]:
    """Return the splits by name, or the root as the only split.

    ``train`` can also be a class, next to ``car`` and ``bus``. If there are folders with other names, the folders
    with split names are splits only if at least one of them contains class folders.
    """
    folders = list_visible_folders(root)
    split_folders = {folder.name: folder for folder in folders if canonical_split(folder.name)}
    others = [folder for folder in folders if folder.name not in split_folders]
    if not split_folders and (below := _find_splits_below_classes(root, others)):
        return {
            name: Split(root, _resolve_levels(root, classes, class_names), has_own_files=name == next(iter(below)))
            for name, classes in below.items()
        }
    nested = [folder.name for folder in others if list_visible_folders(folder)]
    reject_misspelled_splits(nested, split_names=list(split_folders), folder=root)
    if lower := _find_splits_one_level_below(root, others, split_folders):
        split_folders |= lower
        others = [folder for folder in others if not any(split.is_relative_to(folder) for split in lower.values())]
    if not split_folders or (others and not any(map(list_visible_folders, split_folders.values()))):
        return {"train": Split(root, _resolve_levels(root, _by_name(root), class_names))}
    if others:
        names = list_some([folder.name for folder in others])
        logger.warning("%s: ignoring folders that are not splits: %s", root, names)
    split_folders = _unwrap_splits(split_folders)
    return {
        name: Split(folder, _resolve_levels(folder, _by_name(folder), class_names))
        for name, folder in split_folders.items()
    }


def _find_splits_below_classes(root: Path, folders: Sequence[Path]) -> dict[str, list[tuple[str, Path]]]:
    """Return the class folders of each split if all class folders hold only split folders (``rose/train/1.jpg``).

    Raises:
        PipelineError: If some class folders hold several split folders, and others do not.
    """
    parts: dict[Path, list[Path]] = {}
    for folder in folders:
        subfolders = list_visible_folders(folder) if holds_only_folders(folder) else []
        parts[folder] = subfolders if all(canonical_split(sub.name) for sub in subfolders) else []
    filled = {folder: splits for folder, splits in parts.items() if splits or not is_empty(folder)}
    without = [folder.name for folder, splits in filled.items() if not splits]
    if without:
        if several := next((folder for folder, splits in filled.items() if len(splits) > 1), None):
            raise PipelineError(
                f"{root}: {several.name!r} is divided into splits ({list_some([s.name for s in filled[several]])}), "
                f"but not {list_some(without)}: divide all classes, or put the class folders into split folders"
            )
        return {}
    splits = defaultdict(list)
    for folder, subfolders in filled.items():
        for sub in subfolders:
            splits[canonical_split(sub.name) or ""].append((folder.name, sub))
    if splits:
        logger.warning("%s: reading the split folders below the class folders: %s", root, ", ".join(splits))
    return splits


def _find_splits_one_level_below(
    root: Path, others: Sequence[Path], split_folders: Mapping[str, Path]
) -> dict[str, Path]:
    """Return the split folders in one of the other folders: ``data/train/rose`` next to ``test/rose``.

    Raises:
        PipelineError: If a split is found twice, or the other folders hold images.
    """
    inside = {folder: list_visible_folders(_unwrap(folder)) for folder in others if holds_only_folders(folder)}
    found = [sub for subs in inside.values() for sub in subs if canonical_split(sub.name) and list_visible_folders(sub)]
    parents = {sub.parent for sub in found}
    if not found or (len(parents) > 1 and not split_folders):
        return {}
    raise_problems(
        f"{root}: {canonical_split(sub.name)} is at {sub.relative_to(root)} and at {other.relative_to(root)}: "
        f"pass --dataset_name with one of the parent folders, or remove one"
        for number, sub in enumerate(found)
        for other in [*split_folders.values(), *found[:number]]
        if canonical_split(sub.name) == canonical_split(other.name)
    )
    images = [folder.name for folder in others if folder not in inside and not is_empty(folder)]
    if images and not split_folders:
        raise PipelineError(
            f"{root}: {found[0].parent.relative_to(root)} holds split folders, and {list_some(images)} hold images: "
            f"pass --dataset_name {found[0].parent}, or move it elsewhere"
        )
    names = ", ".join(str(sub.relative_to(root)) for sub in found)
    logger.warning("%s: reading the split folders one level below: %s", root, names)
    return {sub.name: sub for sub in found}


def _unwrap_splits(split_folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return the split folders without the wrapper folders of train (``train/images/rose``) in all of them."""
    train = next((folder for name, folder in split_folders.items() if canonical_split(name) == "train"), None)
    wrapper = _unwrap(train).relative_to(train) if train else Path()
    return {
        name: folder / wrapper if wrapper.parts and (folder / wrapper).is_dir() else folder
        for name, folder in split_folders.items()
    }


def _by_name(folder: Path) -> list[tuple[str, Path]]:
    return [(subfolder.name, subfolder) for subfolder in list_visible_folders(folder)]


def _resolve_levels(
    root: Path, classes: Sequence[tuple[str, Path]], class_names: Collection[str]
) -> Sequence[tuple[str, Path]]:
    """Return the class folders. They are one level lower if the listed class names are there.

    Raises:
        PipelineError: If several folders contain the same folders (``batch1/cat``, ``batch2/cat``), and the listed
            class names do not decide which level holds the classes.
    """
    inside = {
        name: list_visible_folders(_unwrap(folder)) if holds_only_folders(folder) else []
        for name, folder in classes
        if not is_empty(folder)
    }
    lower = Counter(sub.name for subs in inside.values() for sub in subs)
    if not all(inside.values()) or len(lower) < 2 or max(lower.values()) < 2 or set(inside) <= set(class_names):
        return classes
    if set(lower) <= set(class_names):
        logger.warning("%s: the classes of --class_names are in each of %s", root, list_some(list(inside)))
        return [(sub.name, sub) for subs in inside.values() for sub in subs]
    raise PipelineError(
        f"{root}: the folders {list_some(list(inside))} contain the same folders ({list_some(sorted(lower))}), so "
        "both can be the classes: pass --class_names FILE with the names of the classes, one per line, "
        f"or pass one folder ({root / next(iter(inside))}), or rename the folders if they are splits"
    )
