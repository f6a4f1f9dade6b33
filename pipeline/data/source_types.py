"""The kinds of sources: which a name means, what reads it, and how far its images are trusted.

Owns that table and nothing of what is read; `sources` gives it its shape.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from pipeline.arguments.data import DataArguments
from pipeline.data.flowers102 import load_oxford_flowers
from pipeline.data.folders import read_image_folder
from pipeline.data.tables import find_tables, read_parquet_files, read_text_files
from pipeline.errors import PipelineError, did_you_mean
from pipeline.hub import is_hub_id, load_hub_dataset
from pipeline.synthetic.dataset import PRETRAINING, load_synthetic


@dataclass(frozen=True)
class SourceType:
    """A kind of source: which names mean it, what reads it, and how far its images are trusted."""

    fits: Callable[[str], bool]
    read: Callable[[str, DataArguments], Mapping[str, datasets.Dataset]]
    follows_paths: bool = False  # images may be paths: we, or the user's own file, list them
    drawn_here: bool = False  # images need no check


def _path(name: str) -> Path:
    return Path(name).expanduser()


# The first that fits is taken. A new kind of source is a function and an entry here.
SOURCE_TYPES: dict[str, SourceType] = {
    "synthetic-flowers": SourceType(
        fits=lambda name: name == "synthetic-flowers",
        read=lambda _name, _args: load_synthetic(),
        drawn_here=True,
    ),
    "synthetic-flowers-pretrain": SourceType(
        fits=lambda name: name == "synthetic-flowers-pretrain",
        read=lambda _name, _args: load_synthetic(**PRETRAINING),
        drawn_here=True,
    ),
    "oxford-flowers-102": SourceType(
        fits=lambda name: name == "oxford-flowers-102",
        read=lambda _name, _args: load_oxford_flowers(),
        follows_paths=True,
    ),
    "Parquet": SourceType(
        fits=lambda name: bool(find_tables(_path(name), ".parquet")),
        read=lambda name, _args: read_parquet_files(_path(name)),
    ),
    "CSV": SourceType(
        fits=lambda name: bool(find_tables(_path(name), ".csv")),
        read=lambda name, args: read_text_files(_path(name), ".csv", image_column=args.image_column_name),
        follows_paths=True,
    ),
    "JSON lines": SourceType(
        fits=lambda name: bool(find_tables(_path(name), ".jsonl")),
        read=lambda name, args: read_text_files(_path(name), ".jsonl", image_column=args.image_column_name),
        follows_paths=True,
    ),
    "class folders": SourceType(
        fits=lambda name: _path(name).is_dir(),
        read=lambda name, _args: read_image_folder(_path(name)),
        follows_paths=True,
    ),
    "a Hub data set": SourceType(
        fits=is_hub_id,
        read=lambda name, args: load_hub_dataset(name, args.dataset_config_name, args.dataset_revision),
    ),
}


def find_source_type(name: str) -> str:
    """Return which of `SOURCES` a name means.

    Raises:
        PipelineError: If there is no such thing.
    """
    try:
        for kind, source in SOURCE_TYPES.items():
            if source.fits(name):
                return kind
    except OSError as error:  # a folder that we may not enter
        raise PipelineError(f"{error.filename}: {error.strerror}.") from error
    if _path(name).exists():
        raise PipelineError(f"{name}: neither a folder nor a .parquet, .csv or .jsonl file.")
    raise PipelineError(f"{name}: no such folder{did_you_mean(name, SOURCE_TYPES)}, and a Hub id is OWNER/NAME.")
