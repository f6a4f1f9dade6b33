"""The data set `oxford-flowers-102`: the archives of its authors, downloaded once, with their official splits.

Owns where they lie and what is said when they cannot be had. torchvision downloads, checks and unpacks them, and
knows the names of the classes.
"""

import contextlib
import http.client
import io
import logging
import os
import sys
from pathlib import Path

import datasets
from filelock import FileLock
from torchvision.datasets import Flowers102
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # the program's name -> torchvision's


def load_oxford_flowers() -> dict[str, datasets.Dataset]:
    """Return the splits of 1,020, 1,020 and 6,149 photographs of 102 species, which lie in the cache of `datasets`.

    Returns:
        Splits with `image` (paths, not decoded) and `label`, in the order of the authors' lists.

    Raises:
        PipelineError: If they are not in the cache and cannot be downloaded, or a checksum is wrong.
    """
    root = Path(datasets.config.HF_DATASETS_CACHE)
    if not _is_complete(root):
        _download(root)
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=list(Flowers102.classes))
    )
    splits = {}
    for name, official in _SPLITS.items():
        listed = Flowers102(root, split=official)
        # The public way to a row would decode its image.
        rows = {"image": [str(path) for path in listed._image_files], "label": listed._labels}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    return splits


def _is_complete(root: Path) -> bool:
    try:
        listed = [path for split in _SPLITS.values() for path in Flowers102(root, split=split)._image_files]
    except RuntimeError:  # something is missing, or not what it should be
        return False
    # torchvision only asks for their folder, which an interrupted unpacking leaves as well.
    return {path.name for path in listed} <= set(os.listdir(_folder(root) / "jpg"))  # noqa: PTH208 (names are all we need)


def _download(root: Path) -> None:
    """Download what is missing, and unpack the images."""
    folder = _folder(root)
    archive, checksum = Flowers102._file_dict["image"]
    bar_on_terminal_only = (
        contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "flowers-102.lock"):
            if _is_complete(root):  # meanwhile, by another process
                return
            if _missing(folder):
                logger.info("oxford-flowers-102: downloading 345 MB into %s", folder)
            with bar_on_terminal_only:
                download_and_extract_archive(Flowers102._download_url_prefix + archive, str(folder), md5=checksum)
                Flowers102(root, download=True)  # the rest
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # the last is a wrong checksum
        raise PipelineError(_remedy(folder, error)) from error


def _remedy(folder: Path, error: Exception) -> str:
    if missing := _missing(folder):
        return (
            f"oxford-flowers-102 cannot be downloaded: {error}\n"
            f"Repeat the command, or put {', '.join(missing)} of {Flowers102._download_url_prefix} into {folder}"
        )
    return f"oxford-flowers-102 cannot be unpacked: {error}"


def _missing(folder: Path) -> list[str]:
    """Return which of the published files are not there, or damaged."""
    return [name for name, checksum in Flowers102._file_dict.values() if not check_integrity(folder / name, checksum)]


def _folder(root: Path) -> Path:
    return root / "flowers-102"  # torchvision's name
