"""A call -> `Settings`, and back to the recipe that repeats the run."""

from typing import Any

from pipeline import config
from pipeline.arguments.data import NO_DATASET
from pipeline.arguments.settings import GROUPS, Settings
from pipeline.config import CommandLine
from pipeline.config.names import is_shipped
from pipeline.data.source_types import SOURCE_TYPES
from pipeline.errors import PipelineError
from pipeline.runs import folder as run_folder
from pipeline.runs.files import absolute_if_local


def read_settings(line: CommandLine) -> Settings:
    """Return the settings of a call of `train`. Their `output_dir` is the run folder, given or not.

    Raises:
        PipelineError: If a flag is unknown or invalid, flags cannot be combined, or the dataset is missing.
    """
    return complete(Settings(*config.parse(line, GROUPS), given=frozenset(line.given)), line)


def complete(settings: Settings, line: CommandLine) -> Settings:
    """Return the settings with the run folder as their `output_dir`.

    Raises:
        PipelineError: If the dataset is missing.
    """
    data, args = settings.data, settings.trainer
    if data.dataset_name is None:
        raise PipelineError(f"{NO_DATASET}; or use --config RECIPE")
    if args.output_dir is None:
        args.output_dir = str(run_folder.default_folder(recipe=line.recipe, dataset=data.dataset_name, seed=args.seed))
    return settings


def as_recipe(settings: Settings) -> dict[str, Any]:
    """Return the settings for `recipe.yaml`, with absolute paths: the run finds its data and model from any folder."""
    arguments = settings.resolved()
    data, model = arguments["dataset_name"], arguments["model_name_or_path"]
    if data not in SOURCE_TYPES:
        arguments["dataset_name"] = absolute_if_local(data)
    if not is_shipped(model):
        arguments["model_name_or_path"] = absolute_if_local(model)
    return arguments
