"""A key for the images of a split: it names cached results that depend on these images only."""

import os
from pathlib import Path

import datasets
import pyarrow.compute
import xxhash

from pipeline.errors import PipelineError
from pipeline.watchdog import reading


def content_key(split: datasets.Dataset) -> str:
    """Return a hash (hex) of the images of a split, in their order.

    Images stored in the split are hashed by their bytes. Files are hashed by name, size and modification time, not by
    folder. Labels are not part of the hash.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`). Stored bytes are read in place, without a copy.

    Raises:
        PipelineError: If a file is missing.
    """
    images = split.data.column("image")
    contents, paths = (pyarrow.compute.struct_field(images, name) for name in ("bytes", "path"))
    # There is no public way to map the rows of a selection to the rows of its table without reading every image.
    rows = range(len(images)) if split._indices is None else split._indices.column(0).to_pylist()
    digest = xxhash.xxh3_128()  # ten times as fast as SHA-256; protection against attackers is not needed here
    for row in rows:
        content = contents[row].as_buffer()
        if content is None:
            file = _file_key(paths[row].as_py())
            digest.update(b"file %d " % len(file) + file)
        else:
            digest.update(b"bytes %d " % content.size)
            digest.update(content)
    return digest.hexdigest()


def _file_key(path: str | None) -> bytes:
    if path is None:
        return b""
    status = status_of(path)
    return f"{Path(path).name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")


def status_of(path: str) -> os.stat_result:
    """Return size and times of an image file.

    Raises:
        PipelineError: If it is missing.
    """
    try:
        with reading(path):
            return Path(path).stat()
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be read ({error.strerror}), but it was there when the dataset was listed: restore the file "
            "or run the command again"
        ) from error
