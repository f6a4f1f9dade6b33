"""Find that a call of `race` would measure nothing, without the libraries that take many seconds to import."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from pipeline.config.backbones import expand_lists
from pipeline.config.names import as_path, local_model
from pipeline.racing.results import JSON
from pipeline.runs.files import read_json

_RENDERED = ("synthetic-flowers", "synthetic-flowers-pretrain")
_FILES = ("class_names", "drop_list", "relabel")


def describe_request(values: Mapping[str, Any]) -> str | None:
    """Return a hash of everything that the result of a call depends on, or None if only loading the data shows that.

    It covers the flags, and size and time of change of every file of the data and of local models.

    Args:
        values: The flags of the recipe and of the user.
    """
    dataset = str(values.get("dataset_name"))
    if values.get("follow_paths") or not (dataset in _RENDERED or as_path(dataset).exists()):
        return None
    folders = [local_model(backbone) for backbone in expand_lists(values["backbones"])]
    places = [*filter(None, folders), *(as_path(values[name]) for name in _FILES if values.get(name))]
    places += [] if dataset in _RENDERED else [as_path(dataset)]
    digest = xxhash.xxh3_128(repr(sorted((k, v) for k, v in values.items() if k != "output_dir")).encode())
    for place in places:
        for path, state in sorted(_states(place)):
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def find_result(folder: Path, request: str | None) -> dict[str, Any] | None:
    """Return the content of `race.json` if it is the complete result of a call, or None.

    Args:
        folder: Folder of the race.
        request: From `describe_request`.
    """
    try:
        found = read_json(folder / JSON)
    except (OSError, ValueError):  # it is missing or damaged, and is written again
        return None
    if request is None or found.get("request") != request:
        return None
    rows = found["rows"]
    complete = all(row["error"] is None and (folder / (row["folder"] or ".")).is_dir() for row in rows)
    return found if complete else None


def _states(place: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and state of a file, or of all files below a folder."""
    if place.is_file():
        yield str(place), place.stat()
    for folder, _, names in os.walk(place, followlinks=True):
        for name in names:
            path = Path(folder) / name
            if path.is_file():
                yield str(path), path.stat()
