"""Parquet files of strangers: a few rows are read at a time, and what unpacks to many times its size is refused."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from datasets import DatasetBuilder
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.utils.file_utils import xopen

from pipeline.errors import PipelineError

_MAX_RATIO = 100  # images are compressed, so they do not get smaller
_MIN_SIZE = 2**27  # bytes; what unpacks to less may have any ratio
_ROWS = 16  # rows that are unpacked at a time, because many rows can share one value that is stored once
_JOINED = 100  # rows of a batch in the cache, as `datasets` chooses it for images
_JOINED_SIZE = 2**25  # bytes


def read_safely(builder: DatasetBuilder) -> None:
    """Make a builder refuse Parquet files that unpack to many times their size, and need little memory for others."""
    if not isinstance(builder.config, ParquetConfig):
        return
    # By default, Arrow keeps a complete file in memory until its end is read, for example half a gigabyte.
    builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
    builder.config.batch_size = _ROWS
    builder._generate_tables = functools.partial(_bounded_tables, builder._generate_tables)


def prepare(builder: DatasetBuilder) -> None:
    """Write the rows of a builder to the cache.

    Raises:
        PipelineError: If a file was refused.
    """
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, PipelineError):
            raise error.__cause__ from error
        raise


def _bounded_tables(
    generate: Callable[..., Iterator[tuple[Key, pa.Table]]],
    files: Sequence[str],
    row_groups_list: Sequence[tuple[int, ...] | None],
) -> Iterator[tuple[Key, pa.Table]]:
    """Yield the rows of files, or of some of their row groups.

    A file states its size without compression, but counts a value that many rows share only once. So the rows are
    counted too.
    """
    for number, (file, row_groups) in enumerate(zip(files, row_groups_list, strict=True)):
        packed = _packed_size(file, row_groups)
        unpacked, joined, batch = 0, list[pa.Table](), 0
        for _, table in generate([file], [row_groups]):
            unpacked += table.nbytes
            _require_small(file, packed, unpacked)
            joined.append(table)
            if sum(map(len, joined)) >= _JOINED or sum(part.nbytes for part in joined) >= _JOINED_SIZE:
                yield Key(number, batch), pa.concat_tables(joined)
                joined, batch = [], batch + 1
        if joined:
            yield Key(number, batch), pa.concat_tables(joined)


def _packed_size(file: str, row_groups: Sequence[int] | None) -> int:
    """Return the bytes of some row groups in a file, if they unpack to as many as the file says.

    Raises:
        PipelineError: If that is too much.
    """
    try:
        read = _remote_metadata if "://" in file else _metadata
        metadata = read(file)
    except (OSError, pa.ArrowException):
        return 0  # reading the rows reports the error
    groups = [metadata.row_group(i) for i in (range(metadata.num_row_groups) if row_groups is None else row_groups)]
    packed: int = sum(group.column(c).total_compressed_size for group in groups for c in range(group.num_columns))
    _require_small(file, packed, sum(group.total_byte_size for group in groups))
    return packed


def _metadata(file: str) -> Any:
    with xopen(file, "rb") as stream:
        return pq.read_metadata(stream)


_remote_metadata = functools.lru_cache(maxsize=256)(_metadata)
"""The same for a file on the Hub, whose name has its revision. A stream reads the row groups of a file one by one."""


def _require_small(file: str, packed: int, unpacked: int) -> None:
    limit = max(_MAX_RATIO * packed, _MIN_SIZE)
    if unpacked > limit:
        name = file.rpartition("/snapshots/")[2].partition("/")[2] if "/snapshots/" in file else file
        raise PipelineError(
            f"{name} has {packed:,} bytes and unpacks to more than {limit >> 20:,} MB: store its images as JPEG "
            "or PNG, or use other data"
        )
