"""Recipes: YAML files of flat keys, read as text and turned into flags."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.names import as_path
from pipeline.errors import PipelineError, did_you_mean

RECIPES = Path(__file__).parents[1] / "configs"


def recipe_path(name: str) -> Path:
    """Return the file of a recipe: a path to a YAML file, or the name of a shipped one.

    Raises:
        PipelineError: If there is neither.
    """
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if as_path(name).is_file():
        return as_path(name)
    names = sorted(shipped_recipes())
    raise PipelineError(f"unknown recipe or file {name!r}{did_you_mean(name, names)}: use {', '.join(names)}")


def shipped_recipes() -> dict[str, str]:
    """Return the names of the shipped recipes with the first line of each, which describes it."""
    return {p.stem: p.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for p in RECIPES.glob("*.yaml")}


def recipe_as_flags(name: str) -> list[str]:
    """Read a recipe as text and return it as flags.

    `BaseLoader` keeps every value a string: PyYAML would read `2e-5` as a string but `no` as False.

    Raises:
        PipelineError: If the file is missing, is not YAML, or is not a list of keys and values.
    """
    path = recipe_path(name)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}  # noqa: S506 (strings only)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PipelineError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path} is not a recipe: write one `key: value` per line")
    return as_flags({key: value for key, value in content.items() if value not in ("", "null", "~")})


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Return values by name as the words of a command line."""
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, list | tuple):
            words += [f"--{key}", *map(str, value)]
        else:
            words.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return words
