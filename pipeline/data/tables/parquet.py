"""Parquet files in a local folder or file: read their rows by split."""

import glob
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.columns import find_image_column
from pipeline.data.tables.files import find_tables
from pipeline.data.tables.image_paths import ImageFolder
from pipeline.data.tables.one_hot import join_one_hot_columns
from pipeline.errors import PipelineError
from pipeline.hub.parquet import read_safely, refusals_shown
from pipeline.progress import progress_on_terminal_only


def read_parquet_files(
    source: Path, *, image_column: str | None, label_column: str | None
) -> dict[str, datasets.Dataset]:
    """Read the rows of Parquet files by split, memory-mapped from the cache of `datasets`.

    Args:
        source: A folder or a file.
        image_column: The value of `--image_column_name`; None finds the column.
        label_column: The value of `--label_column_name`; None finds the column, or one 0/1 column per class.

    Raises:
        PipelineError: If a file cannot be read or unpacks to many times its size, or the files of a split have
            different columns.
    """
    splits = {}
    found: list[Path] = []
    for name, files in find_tables(source).items():
        patterns = [glob.escape(str(file.absolute())) for file in files]
        found += files
        for file in files:
            _check_schema(file, split=name)
        try:
            # Each split is loaded separately, so that a test split can lack the label column.
            with progress_on_terminal_only(), refusals_shown():
                builder = datasets.load_dataset_builder("parquet", data_files=patterns)
                read_safely(builder)
                builder.download_and_prepare()
                splits[name] = builder.as_dataset(split="train")
        except (pa.ArrowInvalid, datasets.exceptions.DatasetGenerationError) as error:
            reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
            raise PipelineError(
                f"{source}: the Parquet files of {name} cannot be read: {reason}: write or download them again"
            ) from error
    folder = ImageFolder(source if source.is_dir() else source.parent)
    folder.warn_of_unlisted([], table_folders=[file.parent for file in found])
    image = find_image_column(next(iter(splits.values())).features, requested=image_column)
    return join_one_hot_columns(splits, image=image, label=label_column)


def _check_schema(file: Path, *, split: str) -> None:
    """Raise an error if the columns of a Parquet file cannot be read."""
    try:
        datasets.Features.from_arrow_schema(pq.read_schema(file))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, pa.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise PipelineError(
            f"{file}: the Parquet files of {split} cannot be read: {reason}: write or download them again"
        ) from error
