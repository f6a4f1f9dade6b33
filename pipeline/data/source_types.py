"""Source types: which dataset names match, which function reads them, and whether image paths in the data are followed.

Owns this table. `sources` brings what the functions return into one format.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from pipeline.arguments.data import DataArguments
from pipeline.data.class_names import read_class_names
from pipeline.data.flowers102 import load_oxford_flowers
from pipeline.data.folders import read_image_folder
from pipeline.data.tables import find_tables, read_parquet_files, read_text_files
from pipeline.errors import PipelineError, did_you_mean
from pipeline.hub import is_hub_id, load_hub_dataset
from pipeline.synthetic.dataset import PRETRAINING, load_synthetic

HUB = "Hub dataset"


@dataclass(frozen=True)
class SourceType:
    """A type of data source.

    Attributes:
        matches: Returns whether a dataset name belongs to this type.
        read: Returns the splits of a dataset, by the names that the source uses.
        follows_paths: Images may be stored as paths, because the user or this program listed them.
        rendered: This program renders the images, so they need no check for unreadable files.
    """

    matches: Callable[[str], bool]
    read: Callable[[str, DataArguments], Mapping[str, datasets.Dataset]]
    follows_paths: bool = False
    rendered: bool = False


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _listed_names(args: DataArguments) -> set[str]:
    return read_class_names(args.class_names).keys if args.class_names else set()


# The first type that matches is used. To add a source type, write one function and add one entry here.
SOURCE_TYPES: dict[str, SourceType] = {
    "synthetic-flowers": SourceType(
        matches=lambda name: name == "synthetic-flowers",
        read=lambda _name, _args: load_synthetic(),
        rendered=True,
    ),
    "synthetic-flowers-pretrain": SourceType(
        matches=lambda name: name == "synthetic-flowers-pretrain",
        read=lambda _name, _args: load_synthetic(**PRETRAINING, dusk=False),
        rendered=True,
    ),
    "oxford-flowers-102": SourceType(
        matches=lambda name: name == "oxford-flowers-102",
        read=lambda _name, _args: load_oxford_flowers(),
        follows_paths=True,
    ),
    "Parquet": SourceType(
        matches=lambda name: bool(find_tables(_path(name), ".parquet")),
        read=lambda name, _args: read_parquet_files(_path(name)),
    ),
    "CSV": SourceType(
        matches=lambda name: bool(find_tables(_path(name), ".csv")),
        read=lambda name, args: read_text_files(_path(name), ".csv", image_column=args.image_column_name),
        follows_paths=True,
    ),
    "JSON lines": SourceType(
        matches=lambda name: bool(find_tables(_path(name), ".jsonl")),
        read=lambda name, args: read_text_files(_path(name), ".jsonl", image_column=args.image_column_name),
        follows_paths=True,
    ),
    "class folders": SourceType(
        matches=lambda name: _path(name).is_dir(),
        read=lambda name, args: read_image_folder(_path(name), class_names=_listed_names(args)),
        follows_paths=True,
    ),
    HUB: SourceType(
        matches=is_hub_id,
        read=lambda name, args: load_hub_dataset(name, args.dataset_config_name, args.dataset_revision),
    ),
}


def find_source_type(name: str) -> str:
    """Return the key of `SOURCE_TYPES` that a dataset name matches.

    Raises:
        PipelineError: If the name matches no source type.
    """
    try:
        for source_type, source in SOURCE_TYPES.items():
            if source.matches(name):
                return source_type
    except OSError as error:  # for example a folder without read permission
        raise PipelineError(f"{error.filename} cannot be read: {error.strerror}") from error
    if _path(name).exists():
        raise PipelineError(f"{name} is not a supported file: pass a folder or a .parquet, .csv or .jsonl file")
    raise PipelineError(
        f"dataset {name} not found{did_you_mean(name, SOURCE_TYPES)}: pass an existing folder or a Hub id (OWNER/NAME)"
    )


def describe_location(name: str) -> str:
    """Return where a dataset name points, for messages: a local folder, a local file or a built-in dataset."""
    path = _path(name)
    if path.is_dir():
        return "a local folder"
    return "a local file" if path.exists() else "a built-in dataset"
