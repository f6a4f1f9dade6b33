"""The data that a run recorded."""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.arguments.data import NO_DATASET, DataArguments
from pipeline.errors import PipelineError
from pipeline.runs.folder import RunFolder


def data_of_run(model: str | Path) -> DataArguments:
    """Return the data flags of a run.

    Args:
        model: The run folder, or another model, which recorded no data.

    Raises:
        PipelineError: If it is not a run, or its dataset was moved.
    """
    run = RunFolder(Path(model).expanduser())
    if not run.record:
        raise PipelineError(NO_DATASET)
    known = {f.name for f in dataclasses.fields(DataArguments)}
    recipe: dict[str, Any] = {key: value for key, value in run.arguments.items() if key in known}
    name = str(recipe.get("dataset_name"))
    if Path(name).is_absolute() and not Path(name).exists():
        raise PipelineError(f"{model} was trained on {name}, which does not exist: add --dataset_name DATA")
    return DataArguments(**recipe)
