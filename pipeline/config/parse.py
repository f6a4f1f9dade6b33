"""A command line -> the dataclasses of its flags. Everything that needs no torch is checked first, all at once."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.arguments import checks
from pipeline.arguments.selection import SelectionArguments
from pipeline.arguments.training import TrainerFlags, TrainingFlags
from pipeline.config.command_line import CommandLine
from pipeline.config.recipes import recipe_path
from pipeline.config.words import Words, read_words
from pipeline.errors import PipelineError, raise_problems

STRATEGIES = ("full", "lora", "head")


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
    read, _, problems = read_groups(line, classes, positional=positional is not None)
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


def read_groups(
    line: CommandLine, classes: Sequence[type], *, positional: bool
) -> tuple[Words, tuple[Any, ...], list[str]]:
    """Return the words as values, the torch-free groups that they make, and all problems of both.

    Args:
        line: The call.
        classes: Dataclasses whose fields are the flags. `FineTuningArguments` is read as `TrainerFlags`.
        positional: Whether the verb has words without a flag.
    """
    light: list[Any] = [TrainerFlags if issubclass(c, TrainingFlags) else c for c in classes]
    fields = {f.name: f for c in light for f in dataclasses.fields(c)}
    recipe = read_words(line.recipe_flags, fields)
    read = read_words([*line.chosen, *line.recipe_flags], fields)
    user = read_words(line.flags, fields)
    file = str(recipe_path(line.recipe)) if recipe.problems and line.recipe else ""
    problems = [*line.problems, *(f"{file}: {re.sub(r'--(?=[a-z])', '', problem)}" for problem in recipe.problems)]
    problems += user.problems
    if not positional:
        problems += map(_unexpected, user.positional)
    values = read.values | user.values
    strategies: list[dict[str, Any]] = [{}]
    if values.get("auto") and "strategy" not in values:  # not chosen yet: a flag is valid if any strategy uses it
        strategies = [{"strategy": strategy} for strategy in STRATEGIES]
    found = []
    for strategy in strategies:
        groups = tuple(_build(c, values | strategy) for c in light)
        found.append((_problems_of(groups, line), groups, values | strategy))
    of_groups, groups, values = min(found, key=lambda option: len(option[0]))
    return Words(values, user.positional), groups, problems + of_groups


def _problems_of(groups: Sequence[Any], line: CommandLine) -> list[str]:
    """Return what is wrong with torch-free groups, and the flags of the user that the strategy ignores.

    A strategy that `--auto` chooses may ignore flags that do not shape the run.
    """
    problems = list(checks.find_problems(groups))
    is_auto = False
    for group in groups:
        if isinstance(group, TrainerFlags):
            problems += checks.trainer_problems(group)
        elif isinstance(group, SelectionArguments):
            is_auto = group.auto and "strategy" not in line.given
    named = {flag for problem in problems for flag in re.findall(r"--\w+", problem)}
    ignored = checks.without_effect(groups, line.typed, forgive_neutral=is_auto)
    return problems + [problem for problem in ignored if problem.split()[0] not in named]


def _build(group_class: type, values: Mapping[str, Any]) -> Any:
    return group_class(**{f.name: values[f.name] for f in dataclasses.fields(group_class) if f.name in values})


def _unexpected(word: str) -> str:
    remedy = "write flags as --name value" if re.match(r"[A-Za-z_]\w*=", word) else "remove it, or add its flag"
    return f"unexpected argument {word!r}: {remedy}"
