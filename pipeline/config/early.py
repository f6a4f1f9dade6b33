"""What is checked before anything heavy is imported: words, values, combinations, and names of models and files."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.arguments.data import NO_DATASET, DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.training import TrainerFlags
from pipeline.arguments.verbs import (
    NO_MODEL,
    AppArguments,
    EvaluateArguments,
    ExplainArguments,
    ExportArguments,
    PredictArguments,
    PushArguments,
    RaceArguments,
    ReportArguments,
)
from pipeline.config import names
from pipeline.config.backbones import backbone_problems
from pipeline.config.command_line import CommandLine, read_call
from pipeline.config.parse import STRATEGIES, read_groups
from pipeline.config.verbs import VERBS
from pipeline.errors import raise_problems


@dataclass(frozen=True)
class _Call:
    """What the names of a call are checked against.

    Attributes:
        verb: The verb.
        given: The flags that the recipe or the user gave.
        typed: The flags that the user gave.
        hinted: The flags that other problems say to use, so that they are not reported as missing.
        images: The images of `predict` or `explain`.
    """

    verb: str
    given: set[str]
    typed: set[str]
    hinted: set[str]
    images: Sequence[str | Path]


def checked_call(
    verb: str, recipe: str | Path | None, flags: Mapping[str, Any], images: Sequence[str | Path] | None = None
) -> CommandLine:
    """Return a call from Python as a command line, after `check`."""
    line = read_call(verb, recipe, flags)
    check(line, images)
    return line


def check(line: CommandLine, images: Sequence[str | Path] | None = None) -> None:
    """Check a call before anything heavy is imported: words, values, combinations, and names of models and files.

    Args:
        line: The call.
        images: The images of `predict` or `explain`, if they are not words of the line.

    Raises:
        PipelineError: With all problems at once.
    """
    read, groups, problems = read_groups(line, VERBS[line.verb].classes, positional=VERBS[line.verb].takes_images)
    hinted = re.findall(r"\buse --(\w+)", "\n".join(problems))
    call = _Call(line.verb, line.given, line.typed, set(hinted), read.positional if images is None else images)
    for group in groups:
        problems += _NAMES.get(type(group), _no_names)(group, call)
    raise_problems(problems)


def choices_that_fit(line: CommandLine, choices: Mapping[str, object]) -> list[str]:
    """Return those choices of `--auto`, as words, that do not conflict with a flag of the recipe or of the user.

    If the chosen strategy ignores or rejects a flag of the user, another one is used that does not. A choice that only
    fits with a later one is kept with it.

    Args:
        line: The call.
        choices: The chosen values by flag.
    """
    kept: list[str] = []
    waiting: list[str] = []
    accepted = set(_problems_of_choices(line, kept))

    def fit(*words: str) -> bool:
        return set(_problems_of_choices(line, [*kept, *words])) <= accepted

    for flag, value in choices.items():
        word = f"--{flag}={value}"
        options = [[word], *([other, word] for other in waiting)]
        if flag == "strategy" and flag not in line.given:
            options += [[f"--strategy={other}"] for other in STRATEGIES if other != value]
        fitting = next((option for option in options if fit(*option)), None)
        kept += fitting or []
        waiting = [other for other in waiting if other not in fitting] if fitting else [*waiting, word]
    return kept


def _problems_of_choices(line: CommandLine, words: Sequence[str]) -> list[str]:
    return read_groups(dataclasses.replace(line, chosen=words), VERBS["train"].classes, positional=False)[2]


def _no_names(_group: Any, _call: _Call) -> Iterator[str]:
    return iter(())


def _names_of_training(group: TrainerFlags, _call: _Call) -> Iterator[str]:
    if group.output_dir is not None:
        yield from names.folder_problems(group.output_dir)
    yield from names.tracker_problems(group.report_to)


def _names_of_model(group: ModelArguments, call: _Call) -> Iterator[str]:
    if call.verb != "race" and "model_name_or_path" not in call.hinted:
        yield from names.model_problems(group.model_name_or_path)


def _names_of_data(group: DataArguments, call: _Call) -> Iterator[str]:
    if group.dataset_name is not None:
        yield from names.dataset_problems(group.dataset_name)
    elif call.verb in ("train", "doctor", "race") and "dataset_name" not in call.given | call.hinted:
        yield f"{NO_DATASET}; or use --config RECIPE"
    for flag in ("class_names", "drop_list", "relabel"):
        yield from names.file_problems(getattr(group, flag), flag=f"--{flag}")


def _names_of_race(group: RaceArguments, call: _Call) -> Iterator[str]:
    if "backbones" not in call.hinted:
        yield from backbone_problems(group.backbones, group.finalists)
    for flag in ("model_name_or_path", "model_revision"):
        if flag in call.typed:
            yield f"--{flag} is for one model, and race compares several: remove it, and pass --backbones"


def _names_of_saved_model(name: str | None, call: _Call) -> Iterator[str]:
    if name is not None:
        yield from names.model_problems(name)
    elif "model" not in call.hinted:
        yield NO_MODEL


def _names_of_evaluation(group: EvaluateArguments, call: _Call) -> Iterator[str]:
    yield from _names_of_saved_model(group.model, call)
    if group.against is not None:
        yield from names.model_problems(group.against)
    is_run = group.model is not None and (Path(group.model) / names.RECORD).is_file()
    if "dataset_name" not in call.given | call.hinted and not is_run:
        yield NO_DATASET
    if group.output_dir is not None:
        yield from names.folder_problems(group.output_dir)
        yield from names.evaluation_problems(group.output_dir)


def _names_of_prediction(group: PredictArguments, call: _Call) -> Iterator[str]:
    yield from _names_of_saved_model(group.model, call)
    if group.watch is None:
        yield from names.image_problems(call.images)
    else:
        yield from names.watch_problems(group.watch, call.images)
    if group.output is not None:
        yield from names.table_problems(group.output, flag="--output", extensions=names.TABLE_EXTENSIONS)
    if group.errors is not None:
        yield from names.table_problems(group.errors, flag="--errors", extensions=names.ERROR_EXTENSIONS)
    yield from names.file_problems(group.class_names, flag="--class_names")


def _names_of_explanation(group: ExplainArguments, call: _Call) -> Iterator[str]:
    yield from _names_of_saved_model(group.model, call)
    if call.images or group.tour is None:
        yield from names.image_problems(call.images)
    if group.tour is not None:
        yield from names.file_problems(group.tour, flag="--tour")
    else:
        yield from (f"--{name} needs --tour: add --tour IMAGE, or remove it" for name in ("layer", "head")
                    if getattr(group, name) is not None)  # fmt: skip
    if group.output is not None:
        yield from names.new_folder_problems(group.output, flag="--output")
    elif "output" not in call.hinted:
        yield "no output folder given: pass --output FOLDER"
    if group.model is not None and group.class_name is not None:
        yield from names.class_problems(group.class_name, names.classes_of(group.model), model=group.model)


def _names_of_app(group: AppArguments, call: _Call) -> Iterator[str]:
    exported = group.model is not None and (names.exported_file(group.model) or group.model.endswith(".onnx"))
    yield from names.extra_problems("app", ("gradio", "onnxruntime") if exported else ("gradio",))
    if exported:
        yield from names.file_problems(str(names.exported_file(str(group.model)) or group.model), flag="--model")
    else:
        yield from _names_of_saved_model(group.model, call)


def _names_of_export(group: ExportArguments, call: _Call) -> Iterator[str]:
    yield from names.extra_problems("export", names.EXPORT_PACKAGES)
    yield from _names_of_run(group, call)
    if group.output is not None:
        yield from names.new_folder_problems(group.output, flag="--output")
    elif group.model is not None:
        yield from names.new_folder_problems(str(Path(group.model) / names.EXPORT_FOLDER), flag="--output")


def _names_of_run(group: ReportArguments | PushArguments | ExportArguments, call: _Call) -> Iterator[str]:
    if group.model is not None:
        yield from names.run_problems(group.model)
    elif "model" not in call.hinted:
        yield "no run given: pass --model RUN"


def _names_of_push(group: PushArguments, call: _Call) -> Iterator[str]:
    yield from _names_of_run(group, call)
    if group.hub_model_id is None and "hub_model_id" not in call.hinted:
        yield "no repository given: pass --hub_model_id OWNER/NAME"
    if group.space:
        yield from names.extra_problems("push --space", ("gradio", "onnxruntime"))


_NAMES: Mapping[type, Callable[[Any, _Call], Iterator[str]]] = {
    ModelArguments: _names_of_model,
    DataArguments: _names_of_data,
    TrainerFlags: _names_of_training,
    EvaluateArguments: _names_of_evaluation,
    PredictArguments: _names_of_prediction,
    ExplainArguments: _names_of_explanation,
    ExportArguments: _names_of_export,
    RaceArguments: _names_of_race,
    AppArguments: _names_of_app,
    ReportArguments: _names_of_run,
    PushArguments: _names_of_push,
}
