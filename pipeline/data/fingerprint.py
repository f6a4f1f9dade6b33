"""The fingerprint of the splits of a dataset."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.compute

from pipeline.data.labels import (
    read_integers,
)
from pipeline.data.streaming import Stream

logger = logging.getLogger(__name__)
_CHUNK_ROWS = 1000  # rows that are converted to Python objects at once; limits memory


def fingerprint(splits: datasets.DatasetDict) -> str:
    """Return a short hash of the split names, the class names, and each row's label, index, file name and file size.

    The hash does not depend on the folder of the files. It changes when an image is added, removed or relabeled, or
    when the size of a file changes. Pixels are not read.
    """
    digest = hashlib.sha256()
    for split_name, split in splits.items():
        digest.update(repr((split_name, split.features["label"].names)).encode())
        if isinstance(split, Stream):
            digest.update(f"{split.identity} {len(split)}".encode())
            continue
        for column in ("label", "index"):
            digest.update(read_integers(split, column).astype("<i8").tobytes())
        for row, (name, size) in enumerate(_names_and_sizes(split)):  # hashed row by row to save memory
            digest.update((f"\n{name}\t{size}" if row else f"{name}\t{size}").encode())
    return digest.hexdigest()[:16]


def _names_and_sizes(split: datasets.Dataset) -> Iterator[tuple[str, int]]:
    """Yield the file name of each image (empty if there is none) and its size in bytes."""
    values = split.data.column("image")
    paths = pyarrow.compute.struct_field(values, "path")
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(values, "bytes"))
    if split._indices is not None:
        # `datasets` has no public API that maps a selection to table rows without reading every image.
        selected = split._indices.column(0)
        paths, sizes = paths.take(selected), sizes.take(selected)
    for start in range(0, len(paths), _CHUNK_ROWS):
        chunk = (column.slice(start, _CHUNK_ROWS).to_pylist() for column in (paths, sizes))
        for path, size in zip(*chunk, strict=True):
            yield Path(path or "").name, Path(path).stat().st_size if size is None else size
