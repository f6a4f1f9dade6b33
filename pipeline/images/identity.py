"""What a split's images are, as a key: for what is computed from them once and kept."""

from pathlib import Path

import datasets
import pyarrow.compute
import xxhash

from pipeline.errors import PipelineError


def content_key(split: datasets.Dataset) -> str:
    """Return a hash (hex) of the images of a split in their order: of the bytes stored in it, or else of the files.

    A file counts by its name, its size and the time of its last change, and wherever it lies. Labels do not count.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`). Stored bytes are read where they are mapped.

    Raises:
        PipelineError: If a file is gone.
    """
    images = split.data.column("image")
    contents, paths = (pyarrow.compute.struct_field(images, name) for name in ("bytes", "path"))
    # No public way leads from the rows of a selection to those of its table but reading every image.
    rows = range(len(images)) if split._indices is None else split._indices.column(0).to_pylist()
    digest = xxhash.xxh3_128()  # ten times as fast as SHA-256, and nobody gains from a collision
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
    try:
        status = Path(path).stat()
    except OSError as error:
        raise PipelineError(f"{path}: {error.strerror}: it was there when the data were listed") from error
    return f"{Path(path).name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
