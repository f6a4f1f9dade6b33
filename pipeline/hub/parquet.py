"""Parquet files of strangers: a few rows are read at a time, and what unpacks to many times its size is refused."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetBuilder
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.utils.file_utils import xopen

from pipeline.errors import PipelineError

_MAX_RATIO = 100  # images are compressed, so they do not get smaller
_MIN_SIZE = 2**26  # bytes; what unpacks to less may have any ratio
_ROWS = 8  # rows that are unpacked at a time, because many rows can share one value that is stored once
_JOINED = 100  # rows of a batch in the cache, as `datasets` chooses it for images
_JOINED_SIZE = 2**25  # bytes


def read_safely(builder: DatasetBuilder) -> None:
    """Make a builder refuse Parquet files that unpack to many times their size, and need little memory for others."""
    if isinstance(builder.config, ParquetConfig):
        builder._generate_tables = functools.partial(_tables, builder)


@contextlib.contextmanager
def refusals_shown() -> Iterator[None]:
    """Raise the `PipelineError` for a refused file in place of the error of `datasets` that it causes."""
    try:
        yield
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, PipelineError):
            raise error.__cause__ from error
        raise


def _tables(
    builder: DatasetBuilder, files: Sequence[str], row_groups_list: Sequence[tuple[int, ...] | None]
) -> Iterator[tuple[Key, pa.Table]]:
    """Yield the rows of files, or of some of their row groups, as the method of the builder does.

    That method unpacks a complete row group at once. A file states its size without compression, but counts a value
    that many rows share only once. So the rows are counted too. A file that states a wrong size is refused after one
    page is unpacked, for which Parquet allows 2 GB.
    """
    for number, (file, row_groups) in enumerate(zip(files, row_groups_list, strict=True)):
        for position, batches in enumerate(_joined(_batches(file, row_groups))):
            yield Key(number, position), builder._cast_table(pa.Table.from_batches(batches))


def _batches(file: str, row_groups: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
    """Yield a few rows at a time.

    Raises:
        PipelineError: If they unpack to many times their size in the file.
    """
    is_remote = "://" in file
    opened = xopen(file, "rb") if is_remote else contextlib.nullcontext(file)
    # If the complete row groups were read at once, a local file would be in memory until its end is read. From the Hub
    # that needs fewer requests, and a stream reads one row group at a time.
    with opened as source, pq.ParquetFile(source, pre_buffer=is_remote) as parquet:
        indices = range(parquet.num_row_groups) if row_groups is None else row_groups
        groups = [parquet.metadata.row_group(i) for i in indices]
        packed = sum(group.column(c).total_compressed_size for group in groups for c in range(group.num_columns))
        _require_small(file, packed, sum(group.total_byte_size for group in groups))
        unpacked = 0
        for batch in parquet.iter_batches(batch_size=_ROWS, row_groups=list(indices)):
            unpacked += batch.nbytes
            _require_small(file, packed, unpacked)
            yield batch


def _joined(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield the batches together that make a batch in the cache."""
    joined: list[pa.RecordBatch] = []
    for batch in batches:
        joined.append(batch)
        if sum(map(len, joined)) >= _JOINED or sum(part.nbytes for part in joined) >= _JOINED_SIZE:
            yield joined
            joined = []
    if joined:
        yield joined


def _require_small(file: str, packed: int, unpacked: int) -> None:
    limit = max(_MAX_RATIO * packed, _MIN_SIZE)
    if unpacked > limit:
        name = file.rpartition("/snapshots/")[2].partition("/")[2] if "/snapshots/" in file else file
        raise PipelineError(
            f"{name} has {packed:,} bytes and unpacks to more than {limit >> 20:,} MB: store its images as JPEG "
            "or PNG, or use other data"
        )
