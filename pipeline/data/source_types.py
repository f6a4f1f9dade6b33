"""Source types: which dataset names match, which function reads them, and whether image paths in the data are followed.

Owns this table. `sources` brings what the functions return into one format.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from pipeline.arguments.data import DataArguments
from pipeline.config.names import as_path, is_hub_id, missing_dataset
from pipeline.data.flowers102 import load_oxford_flowers
from pipeline.data.folders.archives import find_archives, unpack_command
from pipeline.data.folders.read import read_image_folder
from pipeline.data.labels.class_names import read_class_names
from pipeline.data.tables.files import (
    EXTENSIONS,
    JSON_REMEDY,
    contains_images,
    find_extension,
    has_class_folders,
    is_json_table,
)
from pipeline.data.tables.parquet import read_parquet_files
from pipeline.data.tables.read import read_text_files
from pipeline.errors import PipelineError, list_some
from pipeline.hub import load_hub_dataset
from pipeline.images.files import list_files
from pipeline.synthetic.dataset import PRETRAINING, load_synthetic

logger = logging.getLogger(__name__)

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
    return as_path(name)


def _column_names(args: DataArguments) -> dict[str, str | None]:
    return {"image_column": args.image_column_name, "label_column": args.label_column_name}


def _read_class_folders(folder: Path, args: DataArguments) -> dict[str, datasets.Dataset]:
    """Return the splits of class folders, unless the images are still in an archive."""
    try:
        _warn_of_other_contents(folder)
    except OSError as error:
        raise PipelineError(f"{error.filename} cannot be read: {error.strerror}") from error
    listed = read_class_names(args.class_names).keys if args.class_names else set()
    return read_image_folder(folder, class_names=listed)


def _warn_of_other_contents(folder: Path) -> None:
    """Reject a folder with archives in place of images, and warn of files that could be meant as tables."""
    if not contains_images(folder) and (archives := find_archives(list_files(folder))):
        raise PipelineError(
            f"{folder} contains no images, only archives ({list_some([file.name for file in archives])}): "
            f"unpack it first: {unpack_command(archives[0])}"
        )
    json_files = [file for file in sorted(folder.glob("*.json")) if file.is_file()]
    if tables := [file for file in json_files if is_json_table(file)]:
        logger.warning(
            "reading class folders and ignoring %s, which can be tables: pass one with --dataset_name to read it",
            list_some([file.name for file in tables]),
        )
    others = [file for file in json_files if file not in tables]
    if others and not has_class_folders(folder):
        logger.warning("ignoring %s, which is not a table: %s", list_some([file.name for file in others]), JSON_REMEDY)


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
        matches=lambda name: find_extension(_path(name)) == ".parquet",
        read=lambda name, args: read_parquet_files(_path(name), **_column_names(args)),
    ),
    "CSV": SourceType(
        matches=lambda name: find_extension(_path(name)) in (".csv", ".tsv"),
        read=lambda name, args: read_text_files(_path(name), follow_paths=args.follow_paths, **_column_names(args)),
        follows_paths=True,
    ),
    "JSON": SourceType(
        matches=lambda name: find_extension(_path(name)) in (".json", ".jsonl", ".ndjson"),
        read=lambda name, args: read_text_files(_path(name), follow_paths=args.follow_paths, **_column_names(args)),
        follows_paths=True,
    ),
    "class folders": SourceType(
        matches=lambda name: _path(name).is_dir(),
        read=lambda name, args: _read_class_folders(_path(name), args),
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
    path = _path(name)
    if find_archives([path]) and path.exists():
        raise PipelineError(f"{name} is an archive: unpack it first and pass the folder: {unpack_command(path)}")
    if path.exists():
        raise PipelineError(f"{name} is not a supported file: pass a folder or a file {', '.join(EXTENSIONS)}")
    raise PipelineError(missing_dataset(name))


def describe_location(name: str) -> str:
    """Return where a dataset name points, for messages: a local folder, a local file or a built-in dataset."""
    path = _path(name)
    if path.is_dir():
        return "a local folder"
    return "a local file" if path.exists() else "a built-in dataset"
