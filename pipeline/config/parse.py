"""A command line -> the dataclasses of its flags. Everything that needs no torch is checked first, all at once."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.arguments import checks
from pipeline.arguments.data import NO_DATASET, DataArguments
from pipeline.arguments.images import ImageArguments
from pipeline.arguments.inherited import REJECTED
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.objective import ObjectiveArguments
from pipeline.arguments.selection import SelectionArguments
from pipeline.arguments.strategy import StrategyArguments
from pipeline.arguments.training import TrainerFlags, TrainingFlags
from pipeline.arguments.verbs import NO_MODEL, EvaluateArguments, PredictArguments, PushArguments
from pipeline.config import names
from pipeline.config.command_line import CommandLine
from pipeline.config.recipes import recipe_path
from pipeline.config.words import Words, read_words
from pipeline.errors import PipelineError, raise_problems

STRATEGIES = ("full", "lora", "head")

GROUPS: Mapping[str, tuple[type, ...]] = {
    "train": (
        ModelArguments,
        DataArguments,
        TrainerFlags,
        StrategyArguments,
        ImageArguments,
        ObjectiveArguments,
        SelectionArguments,
    ),
    "evaluate": (EvaluateArguments, DataArguments),
    "predict": (PredictArguments,),
    "push": (PushArguments,),
}
"""Verb -> its groups of flags, torch-free."""


def check(line: CommandLine, images: Sequence[str | Path] | None = None) -> None:
    """Check a call before anything heavy is imported: words, values, combinations, and names of models and files.

    Args:
        line: The call.
        images: The images of `predict`, if they are not words of the line.

    Raises:
        PipelineError: With all problems at once.
    """
    read, groups, problems = _read(line, GROUPS[line.verb], positional=line.verb == "predict")
    by_class = {type(group): group for group in groups}
    for group_class, find in _NAMES.items():
        if group_class in by_class:
            problems += find(by_class[group_class], line, images if images is not None else read.positional)
    raise_problems(problems)


def parse(line: CommandLine, classes: Sequence[type], *, positional: str | None = None) -> tuple[Any, ...]:
    """Turn a command line into its dataclasses, and the list of positional words if the verb has any.

    Args:
        line: From `read_command_line`.
        classes: Dataclasses whose fields are the flags.
        positional: Name of the words without a flag, or None if the verb has none.

    Raises:
        PipelineError: If a flag or key is unknown, a value is invalid, or flags cannot be combined; all problems at
            once.
    """
    read, _, problems = _read(line, classes, positional=positional is not None)
    raise_problems(problems)
    built, problems = list[Any](), list[str]()
    for c in classes:
        try:
            built.append(_build(c, read.values))
        except PipelineError as error:
            problems.append(str(error))
        except ValueError as error:  # a combination that TrainingArguments rejects
            problems.append(" ".join(str(error).split()))
    raise_problems([*problems, *checks.find_problems(built)])
    return (*built, read.positional) if positional else tuple(built)


def choices_that_fit(line: CommandLine, choices: Mapping[str, object]) -> list[str]:
    """Return those choices of `--auto`, as words, that do not conflict with a flag of the recipe or of the user.

    If the chosen strategy ignores or rejects a flag of the user, another one is used that does not.

    Args:
        line: The call.
        choices: The chosen values by flag.
    """
    kept: list[str] = []
    accepted = set(_problems_of_choices(line, kept))
    for flag, value in choices.items():
        words = [f"--{flag}={value}"]
        if flag == "strategy" and flag not in line.given:
            words += [f"--strategy={other}" for other in STRATEGIES if other != value]
        for word in words:
            if set(_problems_of_choices(line, [*kept, word])) <= accepted:
                kept.append(word)
                break
    return kept


def _problems_of_choices(line: CommandLine, words: Sequence[str]) -> list[str]:
    return _read(dataclasses.replace(line, chosen=words), GROUPS["train"], positional=False)[2]


def _read(
    line: CommandLine, classes: Sequence[type], *, positional: bool
) -> tuple[Words, tuple[Any, ...], list[str]]:
    """Return the words as values, the torch-free groups that they make, and all problems of both."""
    light = [TrainerFlags if issubclass(c, TrainingFlags) else c for c in classes]
    fields = {f.name: f for c in light for f in dataclasses.fields(c)}
    recipe = read_words(line.recipe_flags, fields)
    read = read_words([*line.chosen, *line.recipe_flags], fields)
    user = read_words(line.flags, fields)
    file = str(recipe_path(line.recipe)) if recipe.problems and line.recipe else ""
    problems = [*line.problems, *(f"{file}: {re.sub(r'--(?=[a-z])', '', problem)}" for problem in recipe.problems)]
    problems += user.problems
    if not positional:
        problems += map(_unexpected, user.positional)
    read = Words(read.values | user.values, user.positional)
    groups = tuple(_build(c, read.values) for c in light)
    problems += checks.find_problems(groups)
    for group in groups:
        if isinstance(group, TrainerFlags):
            problems += checks.trainer_problems(group)
    return read, groups, [*problems, *_without_effect(line, groups, problems)]


def _build(group_class: type, values: Mapping[str, Any]) -> Any:
    return group_class(**{f.name: values[f.name] for f in dataclasses.fields(group_class) if f.name in values})


def _unexpected(word: str) -> str:
    remedy = "write flags as --name value" if re.match(r"[A-Za-z_]\w*=", word) else "remove it, or add its flag"
    return f"unexpected argument {word!r}: {remedy}"


def _without_effect(line: CommandLine, groups: Sequence[Any], problems: Sequence[str]) -> Iterator[str]:
    """Yield the flags of the user that the strategy ignores, unless another problem names them.

    A strategy that `--auto` chooses may ignore flags that do not shape the run. Before it has chosen, a flag is valid
    if any strategy uses it.
    """
    settings = next((group for group in groups if isinstance(group, SelectionArguments)), None)
    free = settings is not None and settings.auto and "strategy" not in line.given
    found = list(checks.without_effect(groups, line.typed, forgive_neutral=free))
    if free and not line.chosen:
        others = [_with_strategy(groups, name) for name in STRATEGIES]
        if not all([*checks.without_effect(other, line.typed, forgive_neutral=True)] for other in others):
            return
    named = {flag for problem in problems for flag in re.findall(r"--\w+", problem)}
    yield from (problem for problem in found if problem.split()[0] not in named)


def _with_strategy(groups: Sequence[Any], name: str) -> list[Any]:
    return [
        dataclasses.replace(group, strategy=name) if isinstance(group, StrategyArguments) else group for group in groups
    ]


def _names_of_training(group: TrainerFlags, _line: CommandLine, _images: Sequence[str | Path]) -> Iterator[str]:
    if group.output_dir is not None:
        yield from names.folder_problems(group.output_dir)


def _names_of_model(group: ModelArguments, _line: CommandLine, _images: Sequence[str | Path]) -> Iterator[str]:
    yield from names.model_problems(group.model_name_or_path)


def _names_of_data(group: DataArguments, line: CommandLine, _images: Sequence[str | Path]) -> Iterator[str]:
    if group.dataset_name is not None:
        yield from names.dataset_problems(group.dataset_name)
    elif line.verb == "train":
        yield f"{NO_DATASET}; or use --config RECIPE"


def _names_of_evaluation(group: EvaluateArguments, line: CommandLine, _images: Sequence[str | Path]) -> Iterator[str]:
    yield from [NO_MODEL] if group.model is None else names.model_problems(group.model)
    is_run = group.model is not None and (Path(group.model) / names.RECORD).is_file()
    if "dataset_name" not in line.given and not is_run:
        yield NO_DATASET
    if group.output_dir is not None:
        yield from names.folder_problems(group.output_dir)


def _names_of_prediction(group: PredictArguments, _line: CommandLine, images: Sequence[str | Path]) -> Iterator[str]:
    yield from [NO_MODEL] if group.model is None else names.model_problems(group.model)
    yield from names.image_problems(images)
    if group.output is not None:
        yield from names.table_problems(group.output)


def _names_of_push(group: PushArguments, _line: CommandLine, _images: Sequence[str | Path]) -> Iterator[str]:
    yield from ["no run given: pass --model RUN"] if group.model is None else names.run_problems(group.model)
    if group.hub_model_id is None:
        yield "no repository given: pass --hub_model_id OWNER/NAME"


_NAMES: Mapping[type, Callable[[Any, CommandLine, Sequence[str | Path]], Iterator[str]]] = {
    ModelArguments: _names_of_model,
    DataArguments: _names_of_data,
    TrainerFlags: _names_of_training,
    EvaluateArguments: _names_of_evaluation,
    PredictArguments: _names_of_prediction,
    PushArguments: _names_of_push,
}
