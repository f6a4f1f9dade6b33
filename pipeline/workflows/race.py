"""`race`: backbones on the data of the user -> one table of accuracy, cost and license.

What takes many seconds to import is imported when something has to be measured.
"""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.config import CommandLine, checked_call
from pipeline.config.backbones import expand_lists
from pipeline.config.verbs import VERBS
from pipeline.config.words import read_words
from pipeline.errors import FindingsError
from pipeline.racing import recorded, results
from pipeline.runs.folder import default_folder

ARGUMENTS = VERBS["race"].classes


def race(config: str | Path | None = None, **flags: Any) -> dict[str, Any]:
    """Compare backbones: a linear probe and nearest neighbors of each, and fine-tuning of the best ones.

    The same call measures what is missing, and returns the table if nothing is.

    Args:
        config: Name of a shipped recipe, or a YAML file.
        flags: The flags of `vit-pipeline race --help-all` by their names, with Python values.

    Returns:
        The content of `race.json`: `rows`, one for each backbone and strategy, the most accurate first, with `error`
        if it failed; and `conclusions`, what the rows say as sentences.

    Raises:
        PipelineError: If a flag or the data cannot be used, or the folder holds another race.
        Terminated: If a signal arrived; the same call resumes.
    """
    line = checked_call("race", config, flags)
    return _race(line)[0]


def run(line: CommandLine) -> str:
    """Run the verb, and return the table as text.

    Raises:
        FindingsError: If a backbone failed; its text is the table.
    """
    found, folder = _race(line)
    text = f"{results.text(found)}\n{folder} holds {results.PAGE}, {results.CSV} and {results.JSON}"
    if any(row["error"] for row in found["rows"]):
        raise FindingsError(text)
    return text


def _race(line: CommandLine) -> tuple[dict[str, Any], Path]:
    """Return the content of `race.json` and the folder."""
    fields = {field.name: field for group in ARGUMENTS for field in dataclasses.fields(group)}
    typed = read_words(line.flags, fields).values
    values = read_words(line.recipe_flags, fields).values | typed
    folder = _folder(line)
    request = recorded.describe_request(values)
    if (found := recorded.find_result(folder, request)) is not None:
        return found, folder
    return _measure(line, typed, folder, request), folder


def _folder(line: CommandLine) -> Path:
    groups = config.parse(line, ARGUMENTS)
    flags = {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}
    if flags["output_dir"] is not None:
        return Path(flags["output_dir"])
    run = default_folder(recipe=line.recipe, dataset=flags["dataset_name"], seed=flags["seed"])
    return run.with_name(f"race-{run.name}")


def _measure(line: CommandLine, typed: dict[str, Any], folder: Path, request: str | None) -> dict[str, Any]:
    from pipeline import watchdog
    from pipeline.arguments.settings import GROUPS, Settings
    from pipeline.racing.compete import compete
    from pipeline.selection.settings import complete
    from pipeline.workflows.train import train

    args, *groups = config.parse(line, (ARGUMENTS[0], *GROUPS))
    settings = Settings(*groups, given=frozenset(line.given))
    settings.trainer.output_dir = str(folder)
    flags = {name: value for name, value in typed.items() if name not in ("backbones", "finalists")}

    def fine_tune(backbone: str, run: Path) -> Path:
        return train(line.recipe, **flags | {"model_name_or_path": backbone, "output_dir": run}).folder

    with watchdog.must_progress(settings.data.dataloader_timeout):
        return compete(
            expand_lists(args.backbones),
            args.finalists,
            complete(settings, line),
            words=line.words,
            request=request,
            fine_tune=fine_tune,
        )
