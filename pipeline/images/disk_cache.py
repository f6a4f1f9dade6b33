"""Disk cache of decoded images, so that the work that is the same in every epoch is done once.

This module owns the files and decides whether a cache saves time. The transform decides what is cached
(`transforms.TrainTransform.decode`): the upright image at its reduced size. A cache never changes a pixel: its files
are compared with their hashes before a run uses them, and a damaged cache is built again.

The files are in `vit-pipeline/decoded`, in the cache folder of `datasets` (HF_DATASETS_CACHE), with one folder for each
combination of images and transform. Nothing deletes them automatically. Delete these folders when no run uses them.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import PIL
import pyarrow as pa
import torch
from filelock import FileLock

from pipeline import distributed
from pipeline.images import pixel_files
from pipeline.images.identity import content_key
from pipeline.images.pixel_files import Pixels
from pipeline.performance import machine
from pipeline.progress import progress_on_terminal_only, show_life
from pipeline.runs.files import describe_file, find_damaged_file, read_json, remove_stale_folders

logger = logging.getLogger(__name__)

_FORMAT = 2  # Increase it when the files change, or the code that makes their pixels.
_MANIFEST = "whole.json"  # Written last, so that a folder with it is complete.
_SAMPLES = 8  # images that are decoded to estimate time and size
_MIN_SECONDS_SAVED = 1.0  # A smaller gain is not worth the files.
_PARALLEL_FROM = 2.0  # seconds of decoding; below that, starting processes takes longer than it saves
_BATCH_BYTES = 2**22  # of pixels that a process writes at once; of 1 to 16 MB, 4 MB was the fastest
_MAX_FRACTION_OF_FREE = 0.9  # of the free disk space


class Decoder(Protocol):
    """A transform whose first part, `decode`, is the same in every epoch."""

    @property
    def decode_key(self) -> str:
        """Return a description of `decode`: decoders with equal keys decode to equal pixels."""

    def decode(self, row: dict[str, Any], index: int) -> Pixels:
        """Return (height, width, 3) uint8 for the `image` and the `index` of a row."""


def cache_decoded(
    split: datasets.Dataset, transform: Decoder, *, limit_gb: float, epochs: float, split_name: str
) -> datasets.Dataset:
    """Return the split with decoded images cached on disk, or unchanged if a cache is not worthwhile.

    Every process of a job must call it. The first process of each machine decodes, with all cores.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`), `label` and `index`.
        transform: The only reader of the returned split.
        limit_gb: Largest size of the cache of this split in gigabytes. 0: no cache.
        epochs: Number of times each image is used.
        split_name: Name of the split in messages.

    Returns:
        The same rows and columns. `image` is replaced by the location of the pixels (see `pixel_files.read`).

    Raises:
        BadImageError: If an image cannot be read.
    """
    if not limit_gb or epochs <= 1:
        reason = "--image_cache_gb is 0" if not limit_gb else "each image is used only once"
        logger.info("decoding %s images on the fly: %s", split_name, reason)
        return split
    cache = _cache_folder(split, transform, split_name)
    cached = distributed.main_first(lambda: cache.find_or_build(limit_gb=limit_gb, epochs=epochs))
    return split if cached is None else _replace_images(split, cached)


def find_decoded(split: datasets.Dataset, transform: Decoder) -> datasets.Dataset | None:
    """Return what `cache_decoded` returns if an earlier run built the cache, else None."""
    cached = _cache_folder(split, transform, "train").find()
    return None if cached is None else _replace_images(split, cached)


def estimate(split: datasets.Dataset, transform: Decoder) -> tuple[float, int]:
    """Return the seconds of one core that decoding takes, and the bytes of the decoded images, from a few of them."""
    rows = split.with_format(None).select_columns(["image", "index"])
    sample = rows.select(np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int))
    start = time.perf_counter()
    size = sum(transform.decode(row["image"], row["index"]).size for row in sample)
    factor = len(rows) / len(sample)
    return factor * (time.perf_counter() - start), int(factor * size)


def _cache_folder(split: datasets.Dataset, transform: Decoder, split_name: str) -> "_CacheFolder":
    key = json.dumps([_FORMAT, content_key(split), transform.decode_key, PIL.__version__])
    root = Path(datasets.config.HF_DATASETS_CACHE) / "vit-pipeline" / "decoded"
    return _CacheFolder(root.absolute() / hashlib.sha256(key.encode()).hexdigest()[:24], split, transform, split_name)


def _replace_images(split: datasets.Dataset, cached: datasets.Dataset) -> datasets.Dataset:
    with progress_on_terminal_only():  # concatenate_datasets copies the other columns, a few bytes per row.
        return datasets.concatenate_datasets([cached, split.remove_columns("image")], axis=1)


class _CacheFolder:
    """The cache folder of one combination of images and transform."""

    def __init__(self, folder: Path, split: datasets.Dataset, transform: Decoder, split_name: str) -> None:
        self.folder = folder
        self.rows = split.with_format(None).select_columns(["image", "index"])
        self.transform = transform
        self.split_name = split_name

    def find_or_build(self, *, limit_gb: float, epochs: float) -> datasets.Dataset | None:
        """Return the column `image` of the cached images, or log why there is no cache and return None."""
        if (found := self.find()) is not None or not distributed.is_local_main_process():
            return found
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder.with_suffix(".lock")):
                if (found := self.find()) is not None:  # Another run built it while this one waited.
                    return found
                seconds, size = estimate(self.rows, self.transform)
                if reason := self._reason_not_to_build(seconds * (epochs - 1), size, limit_gb):
                    logger.info("decoding %s images on the fly: %s", self.split_name, reason)
                    return None
                self._build(seconds, size)
        except OSError as error:
            logger.warning(
                "cannot write the cache of %s images to %s (%s); decoding them in every epoch: set HF_DATASETS_CACHE "
                "to a folder with free space, or pass --image_cache_gb 0",
                self.split_name, self.folder.parent, error.strerror or error,
            )  # fmt: skip
        return self.find()

    def find(self) -> datasets.Dataset | None:
        """Return the column `image` of the cached images, or None if they are missing or incomplete."""
        try:
            manifest = read_json(self.folder / _MANIFEST)
            if manifest != self._manifest(self.folder, manifest["files"]) or self._is_damaged(manifest["files"]):
                return None
            return pixel_files.open_files(self.folder).select_columns("image")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or corrupt
            return None

    def _is_damaged(self, files: dict[str, list[int | str]]) -> bool:
        """Return whether a file is not as it was written. Only one process of a machine reads the files for that."""
        if sorted(files) != [file.name for file in pixel_files.list_files(self.folder)]:
            return True
        if not distributed.is_local_main_process():
            return False
        with show_life(lambda: f"verifying the cache of {self.split_name} images"):
            return find_damaged_file(self.folder, files) is not None

    def _manifest(self, folder: Path, files: dict[str, list[int | str]]) -> dict[str, Any]:
        """Return the content of the manifest of a complete folder with these files."""
        return {"format": _FORMAT, "folder": str(folder), "rows": len(self.rows), "files": files}

    def _reason_not_to_build(self, seconds_saved: float, size: int, limit_gb: float) -> str | None:
        if seconds_saved < _MIN_SECONDS_SAVED:
            return f"a cache would save only {seconds_saved:.1g} s"
        if size > limit_gb * 1e9:
            return f"a cache needs {size / 1e9:.3g} GB, and --image_cache_gb is {limit_gb:g}"
        free = shutil.disk_usage(self.folder.parent).free
        if size > _MAX_FRACTION_OF_FREE * free:
            return f"a cache needs {size / 1e9:.3g} GB, and {self.folder.parent} has {free / 1e9:.3g} GB free"
        return None

    def _build(self, seconds: float, size: int) -> None:
        """Write a complete folder, or none."""
        if self.folder.exists():
            logger.warning("%s is corrupt or outdated; rebuilding it", self.folder)
        partial = self.folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)  # It is of a killed run, because this process has the lock.
        remove_stale_folders(partial.parent, "*.partial")
        partial.mkdir()
        try:
            self._decode_into(partial, seconds, size)
            files = {file.name: describe_file(file) for file in pixel_files.list_files(partial)}
            manifest = self._manifest(self.folder, files)
            (partial / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            for file in partial.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            shutil.rmtree(self.folder, ignore_errors=True)
            partial.rename(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        logger.info("cached the decoded %s images in %s: %.3g GB", self.split_name, self.folder, size / 1e9)

    def _decode_into(self, folder: Path, seconds: float, size: int) -> None:
        cores = machine.usable_cores() if seconds > _PARALLEL_FROM else 1
        batch_size = max(1, min(1000, _BATCH_BYTES * len(self.rows) // size))
        with progress_on_terminal_only():
            self.rows.map(
                _decode_batch,
                fn_kwargs={"transform": self.transform, "folder": str(self.folder), "one_thread": cores > 1},
                with_indices=True,
                batched=True,
                batch_size=batch_size,
                writer_batch_size=batch_size,
                num_proc=cores if cores > 1 else None,
                remove_columns=["image", "index"],
                features=pixel_files.COLUMNS,
                cache_file_name=str(folder / "pixels.arrow"),
                new_fingerprint=self.folder.name,  # Without it, `datasets` would hash the transform.
                desc=f"Decoding the {self.split_name} images once",
            )


def _decode_batch(
    batch: dict[str, list[Any]], rows: list[int], *, transform: Decoder, folder: str, one_thread: bool
) -> pa.Table:
    if one_thread:
        torch.set_num_threads(1)  # There is one process per core already, and threads do not survive a fork.
    images = [transform.decode(value, index) for value, index in zip(batch["image"], batch["index"], strict=True)]
    return pixel_files.to_table(images, rows, folder=folder)
