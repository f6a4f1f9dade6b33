"""The dataset `oxford-flowers-102`: the authors' archives, downloaded once, with the official splits.

Owns the cache location and the messages when the download fails. torchvision downloads, verifies and extracts the
archives, and provides the class names.
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

_TORCHVISION_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # our split name -> torchvision's


def load_oxford_flowers() -> dict[str, datasets.Dataset]:
    """Load the official splits: 1,020, 1,020 and 6,149 photographs of 102 species.

    The first call downloads the archives into the cache of `datasets`.

    Returns:
        Splits with `image` (paths, not decoded) and `label`, in the order of the authors' lists.

    Raises:
        PipelineError: If the files are not cached and cannot be downloaded, or a checksum is wrong.
    """
    root = Path(datasets.config.HF_DATASETS_CACHE)
    if not _is_complete(root):
        _download(root)
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=list(Flowers102.classes))
    )
    splits = {}
    for name, torchvision_name in _TORCHVISION_SPLITS.items():
        split = Flowers102(root, split=torchvision_name)
        # The public `__getitem__` would decode every image, so the private lists are read.
        rows = {"image": [str(path) for path in split._image_files], "label": split._labels}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    return splits


def _is_complete(root: Path) -> bool:
    try:
        expected = [path for name in _TORCHVISION_SPLITS.values() for path in Flowers102(root, split=name)._image_files]
    except RuntimeError:  # a file is missing or has a wrong checksum
        return False
    # torchvision checks only that the image folder exists. An interrupted extraction leaves an incomplete folder.
    return {path.name for path in expected} <= set(os.listdir(_folder(root) / "jpg"))  # noqa: PTH208 (only the names are needed)


def _download(root: Path) -> None:
    """Download the missing files and extract the images."""
    folder = _folder(root)
    archive, checksum = Flowers102._file_dict["image"]
    bar_on_terminal_only = (
        contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "flowers-102.lock"):
            if _is_complete(root):  # another process downloaded it while this one waited
                return
            if _missing_files(folder):
                logger.info("oxford-flowers-102: downloading 345 MB into %s", folder)
            with bar_on_terminal_only:
                download_and_extract_archive(Flowers102._download_url_prefix + archive, str(folder), md5=checksum)
                Flowers102(root, download=True)  # the labels and the official splits
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: wrong checksum
        raise PipelineError(_describe_failure(folder, error)) from error


def _describe_failure(folder: Path, error: Exception) -> str:
    reason = str(error).rstrip(".")
    if missing := _missing_files(folder):
        return (
            f"oxford-flowers-102 cannot be downloaded: {reason}\n"
            f"repeat the command, or copy {', '.join(missing)} from {Flowers102._download_url_prefix} into {folder}"
        )
    return f"oxford-flowers-102 cannot be extracted: {reason}"


def _missing_files(folder: Path) -> list[str]:
    """Return the names of the published files that are missing or corrupt."""
    return [name for name, checksum in Flowers102._file_dict.values() if not check_integrity(folder / name, checksum)]


def _folder(root: Path) -> Path:
    return root / "flowers-102"  # the folder name that torchvision expects
