"""Decoded images, kept on the disk: what is the same in every epoch is done once.

Owns the files and the decision whether they pay. What is kept, the transform says (`transforms`): the upright image at
its reduced size. A memo and no more: no pixel depends on whether there is one.

The files lie in `vit-pipeline/decoded`, in the cache folder of `datasets` (HF_DATASETS_CACHE), one folder for each
content and transform. Nothing removes them but you: remove that folder, or any in it, when no run is using it.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import PIL
import pyarrow as pa
import torch
from filelock import FileLock
from torch import Tensor

from pipeline import distributed
from pipeline.distributed import progress_on_terminal_only
from pipeline.images.identity import content_key
from pipeline.performance import machine
from pipeline.runs.files import read_json

logger = logging.getLogger(__name__)

_FORMAT = 1  # raise it with any change to the files or to what makes their pixels
_RECORD = "whole.json"  # written last
_FILES = "pixels*.arrow"  # beside which `datasets` leaves the order of a selection
_SAMPLE = 8  # images that tell what all of them cost
_LEAST_SAVED = 1.0  # seconds; a smaller gain is not worth the files
_SERIAL_BELOW = 2.0  # seconds of decoding; under it, starting processes costs more than they save
_BATCH_BYTES = 2**22  # of pixels that a process holds before it writes them; of 1 to 16 MB, 4 took the least time
_FREE_SHARE = 0.9  # of the free disk that may be filled
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_COLUMNS = datasets.Features(
    {
        "image": {
            "kept": datasets.Value("string"),  # the folder
            "row": datasets.Value("int64"),
            "height": datasets.Value("int32"),
            "width": datasets.Value("int32"),
        },
        "pixels": datasets.Value("binary"),
    }
)
_SCHEMA = _COLUMNS.arrow_schema


class Decoder(Protocol):
    """A transform that says what of it is the same in every epoch."""

    @property
    def work(self) -> str:
        """Names what `decode` does: where that is the same, so are its pixels."""

    def decode(self, row: dict[str, Any], index: int) -> Pixels:
        """Make (height, width, 3) uint8 of a row of `image` and its `index`."""


def cache_decoded(
    split: datasets.Dataset, transform: Decoder, *, limit_gb: float, epochs: float, split_name: str
) -> datasets.Dataset:
    """Return the split with decoded images, kept on the disk, or as it is where that does not pay.

    All processes of a job must call it: the first of each machine decodes, on all cores, the others read.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`), `label` and `index`.
        transform: Reads what this returns; nothing else does.
        limit_gb: Keep no more than so many gigabytes for this split; 0: nothing.
        epochs: How often each image will be seen.
        split_name: The split, as a message shall name it.

    Returns:
        The same rows and columns. Of `image` there is left where its pixels lie, for `is_kept` and `read`.

    Raises:
        BadImageError: If an image cannot be read.
    """
    if not limit_gb or epochs <= 1:
        reason = "--image_cache_gb is 0" if not limit_gb else "they are seen only once"
        logger.info("%s images are decoded as they are needed: %s", split_name, reason)
        return split
    parts = json.dumps([_FORMAT, content_key(split), transform.work, PIL.__version__])
    root = Path(datasets.config.HF_DATASETS_CACHE) / "vit-pipeline" / "decoded"
    memo = _CacheFolder(root.absolute() / hashlib.sha256(parts.encode()).hexdigest()[:24], split, transform, split_name)
    kept = distributed.main_first(lambda: memo.find_or_make(limit_gb=limit_gb, epochs=epochs))
    if kept is None:
        return split
    with progress_on_terminal_only():  # the other columns, a few bytes a row, are put in the order of the rows
        return datasets.concatenate_datasets([kept, split.remove_columns("image")], axis=1)


def is_cached(value: dict[str, Any]) -> bool:
    """Whether a value of the column `image` says where its pixels lie."""
    return "kept" in value


def as_tensor(pixels: Pixels) -> Tensor:
    """View pixels, which may lie where nobody can write, as a tensor; so write nothing."""
    with warnings.catch_warnings(action="ignore"):  # torch warns of just that
        return torch.from_numpy(pixels)


def read(value: dict[str, Any]) -> Tensor:
    """Return the pixels (3, height, width) uint8 of a value that `is_kept`: of the file itself, so write nothing."""
    starts, batches = _open(value["kept"])
    batch = int(starts.searchsorted(value["row"], side="right")) - 1
    ends, pixels = batches[batch]
    place = value["row"] - starts[batch]
    image = pixels[ends[place] : ends[place + 1]]
    return image.view(value["height"], value["width"], 3).permute(2, 0, 1)


class _CacheFolder:
    """The folder of one content and transform: found whole, or made."""

    def __init__(self, folder: Path, split: datasets.Dataset, transform: Decoder, split_name: str) -> None:
        self.folder = folder
        self.rows = split.with_format(None).select_columns(["image", "index"])
        self.transform = transform
        self.split_name = split_name

    def find_or_make(self, *, limit_gb: float, epochs: float) -> datasets.Dataset | None:
        """Return the column `image` of the kept images; None, and a line in the log, where there are none."""
        if (found := self._find()) is not None or not distributed.is_local_main_process():
            return found
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder.with_suffix(".lock")):  # another run may be making it
                if (found := self._find()) is not None:
                    return found
                seconds, size = self._estimate()
                if reason := self._not_worth(seconds * (epochs - 1), size, limit_gb):
                    logger.info("%s images are decoded as they are needed: %s", self.split_name, reason)
                    return None
                self._make(seconds, size)
        except OSError as error:
            logger.warning(
                "%s images are decoded again in every epoch, because %s cannot be written (%s): set HF_DATASETS_CACHE "
                "to a folder with room, or pass --image_cache_gb 0",
                self.split_name, self.folder.parent, error.strerror or error,
            )  # fmt: skip
        return self._find()

    def _find(self) -> datasets.Dataset | None:
        try:
            if read_json(self.folder / _RECORD) != _describe(self.folder, len(self.rows)):
                return None
            return _read_files(self.folder).select_columns("image")
        except (OSError, ValueError):  # not there, or not what it was
            return None

    def _estimate(self) -> tuple[float, int]:
        """Return the seconds of one core and the bytes that all images take, judged by a few."""
        sample = self.rows.select(np.linspace(0, len(self.rows) - 1, min(_SAMPLE, len(self.rows))).astype(int))
        start = time.perf_counter()
        size = sum(self.transform.decode(row["image"], row["index"]).size for row in sample)
        share = len(self.rows) / len(sample)
        return share * (time.perf_counter() - start), int(share * size)

    def _not_worth(self, saved: float, size: int, limit_gb: float) -> str | None:
        if saved < _LEAST_SAVED:
            return f"to keep them would save {saved:.1g} s"
        if size > limit_gb * 1e9:
            return f"to keep them takes {size / 1e9:.3g} GB, and --image_cache_gb is {limit_gb:g}"
        free = shutil.disk_usage(self.folder.parent).free
        if size > _FREE_SHARE * free:
            return f"to keep them takes {size / 1e9:.3g} GB, and {self.folder.parent} has {free / 1e9:.3g}"
        return None

    def _make(self, seconds: float, size: int) -> None:
        """Write the folder so that it is there whole or not at all."""
        if self.folder.exists():
            logger.warning("%s is damaged or was made otherwise, and is made anew", self.folder)
        partial = self.folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed: we have the lock
        partial.mkdir()
        try:
            self._decode_into(partial, seconds, size)
            record = _describe(partial, len(self.rows)) | {"folder": str(self.folder)}
            (partial / _RECORD).write_text(json.dumps(record), encoding="utf-8")
            _flush(partial)
            shutil.rmtree(self.folder, ignore_errors=True)
            partial.rename(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        logger.info("%s images are kept decoded in %s: %.3g GB", self.split_name, self.folder, size / 1e9)

    def _decode_into(self, folder: Path, seconds: float, size: int) -> None:
        cores = machine.usable_cores() if seconds > _SERIAL_BELOW else 1
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
                features=_COLUMNS,
                cache_file_name=str(folder / "pixels.arrow"),
                new_fingerprint=self.folder.name,  # else it would hash the transform
                desc=f"Decoding the {self.split_name} images once",
            )


def _decode_batch(
    batch: dict[str, list[Any]], rows: list[int], *, transform: Decoder, folder: str, one_thread: bool
) -> pa.Table:
    if one_thread:
        torch.set_num_threads(1)  # as many processes as cores; and threads do not survive a fork
    images = [transform.decode(value, index) for value, index in zip(batch["image"], batch["index"], strict=True)]
    kept = [
        {"kept": folder, "row": row, "height": image.shape[0], "width": image.shape[1]}
        for row, image in zip(rows, images, strict=True)
    ]
    # As a table, because `datasets` copies what comes as Python's bytes twice more.
    ends = np.cumsum([0, *(image.size for image in images)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(np.concatenate([image.ravel() for image in images]))]
    pixels = pa.Array.from_buffers(pa.binary(), len(images), buffers)
    return pa.table([pa.array(kept, _SCHEMA.field("image").type), pixels], _SCHEMA)


def _describe(folder: Path, rows: int) -> dict[str, Any]:
    """What the record of a whole folder says."""
    files = {file.name: file.stat().st_size for file in sorted(folder.glob(_FILES))}
    return {"format": _FORMAT, "folder": str(folder), "rows": rows, "files": files}


def _read_files(folder: Path) -> datasets.Dataset:
    return datasets.concatenate_datasets(
        [datasets.Dataset.from_file(str(file)) for file in sorted(folder.glob(_FILES))]
    )


def _flush(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


@functools.lru_cache(maxsize=8)
def _open(folder: str) -> tuple[np.ndarray[Any, Any], list[tuple[np.ndarray[Any, Any], Tensor]]]:
    """Map the files of a folder: the first row of each batch of rows; where its images end, and its pixels."""
    batches = list(_batches(Path(folder)))
    lengths = [len(ends) - 1 for ends, _ in batches]
    return np.cumsum([0, *lengths]), batches


def _batches(folder: Path) -> Iterator[tuple[np.ndarray[Any, Any], Tensor]]:
    for chunk in _read_files(folder).data.column("pixels").chunks:
        _, offsets, pixels = chunk.buffers()
        ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        yield ends, as_tensor(np.frombuffer(pixels, np.uint8))
