"""Arrow files of decoded images: how pixels are written, and how they are read from memory maps.

`disk_cache` decides when these files are written and where.
"""

import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Offsets = np.ndarray[Any, np.dtype[np.int32]]

# The pixels stay in the files: of these columns, a cached split gets only `image`, their location.
COLUMNS = datasets.Features(
    {
        "image": {
            "kept": datasets.Value("string"),  # the folder of the files
            "row": datasets.Value("int64"),
            "height": datasets.Value("int32"),
            "width": datasets.Value("int32"),
        },
        "pixels": datasets.Value("binary"),
    }
)
_SCHEMA = COLUMNS.arrow_schema


def to_table(images: Sequence[Pixels], rows: Sequence[int], *, folder: str) -> pa.Table:
    """Return decoded images as a table with the columns `COLUMNS`.

    A table, because `datasets` would copy Python bytes two more times.

    Args:
        images: (height, width, 3) uint8 each.
        rows: The row of each image in the split.
        folder: Where the files will be read from.
    """
    locations = [
        {"kept": folder, "row": row, "height": image.shape[0], "width": image.shape[1]}
        for row, image in zip(rows, images, strict=True)
    ]
    offsets = np.cumsum([0, *(image.size for image in images)], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.concatenate([image.ravel() for image in images]))]
    pixels = pa.Array.from_buffers(pa.binary(), len(images), buffers)
    return pa.table([pa.array(locations, _SCHEMA.field("image").type), pixels], _SCHEMA)


def list_files(folder: Path) -> list[Path]:
    """Return the files with pixels. `datasets` may write files of a selection into the same folder."""
    return sorted(folder.glob("pixels*.arrow"))


def open_files(folder: Path) -> datasets.Dataset:
    """Memory-map the files of a folder.

    Raises:
        OSError: If a file is missing or truncated.
        ValueError: If there is no file, or a file is corrupt.
    """
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in list_files(folder)])


def is_cached(value: dict[str, Any]) -> bool:
    """Return whether a value of the column `image` is the location of cached pixels."""
    return "kept" in value


def read(value: dict[str, Any]) -> Tensor:
    """Return cached pixels (3, height, width) uint8. They are memory-mapped, so do not write to them."""
    starts, batches = _open_folder(value["kept"])
    batch = int(starts.searchsorted(value["row"], side="right")) - 1
    offsets, pixels = batches[batch]
    position = value["row"] - starts[batch]
    image = pixels[offsets[position] : offsets[position + 1]]
    return image.view(value["height"], value["width"], 3).permute(2, 0, 1)


def as_tensor(pixels: Pixels) -> Tensor:
    """Return a tensor that shares the memory of the pixels. The memory may be read-only, so do not write to it."""
    with warnings.catch_warnings(action="ignore"):  # torch warns about read-only memory
        return torch.from_numpy(pixels)


@functools.lru_cache(maxsize=8)
def _open_folder(folder: str) -> tuple[np.ndarray[Any, Any], list[tuple[Offsets, Tensor]]]:
    """Memory-map a folder. Return the first row of each record batch, and the batches: image offsets and pixels."""
    batches = list(_record_batches(Path(folder)))
    lengths = [len(offsets) - 1 for offsets, _ in batches]
    return np.cumsum([0, *lengths]), batches


def _record_batches(folder: Path) -> Iterator[tuple[Offsets, Tensor]]:
    for chunk in open_files(folder).data.column("pixels").chunks:
        _, offsets, pixels = chunk.buffers()
        image_offsets = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        yield image_offsets, as_tensor(np.frombuffer(pixels, np.uint8))
