"""The call of a verb, from the shell or from Python, as the words of a command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.recipes import as_flags, recipe_as_flags
from pipeline.config.words import flag_name, is_flag
from pipeline.errors import PipelineError, mask_words


@dataclass(frozen=True)
class CommandLine:
    """The call of a verb.

    Attributes:
        verb: The verb.
        recipe: The value of `--config`.
        recipe_flags: The flags of the recipe.
        flags: The flags of the user, which override those of the recipe.
        chosen: The flags that `--auto` chose, which all others override.
        problems: What is wrong with `--config`. They are raised together with all other problems.
    """

    verb: str
    recipe: str | None
    recipe_flags: Sequence[str]
    flags: Sequence[str]
    chosen: Sequence[str] = ()
    problems: Sequence[str] = ()

    @property
    def words(self) -> list[str]:
        """The call as the words of a command line, without secrets."""
        return mask_words([self.verb, *([f"--config={self.recipe}"] if self.recipe else []), *self.flags])

    @property
    def given(self) -> set[str]:
        """The names of the flags that the recipe or the user gave."""
        return _names(self.recipe_flags) | self.typed

    @property
    def typed(self) -> set[str]:
        """The names of the flags that the user gave."""
        return _names(self.flags)


def read_command_line(verb: str, words: Sequence[str]) -> CommandLine:
    """Separate `--config` from the other words, and read its recipe."""
    flags, recipes, problems = list[str](), list[str](), list[str]()
    rest = iter(words)
    for word in rest:
        if not (is_flag(word) and flag_name(word) == "config"):
            flags.append(word)
        elif "=" in word:
            recipes.append(word.partition("=")[2])
        elif (following := next(rest, None)) is not None and not is_flag(following):
            recipes.append(following)
        else:
            problems.append("--config has no value: add the name of a recipe or a YAML file")
            flags += [following] if following is not None else []
    if len(recipes) > 1:
        problems.append(f"--config is given {len(recipes)} times: use one recipe")
    recipe_flags: list[str] = []
    if recipes:
        try:
            recipe_flags = recipe_as_flags(recipes[-1])
        except PipelineError as error:
            problems.append(str(error))
    return CommandLine(verb, recipes[-1] if recipes else None, recipe_flags, flags, problems=problems)


def read_call(verb: str, config: str | Path | None, flags: Mapping[str, Any]) -> CommandLine:
    """Return a call from Python as a command line. A flag that is None has its default."""
    given = {name: value for name, value in flags.items() if value is not None}
    return read_command_line(verb, [*([f"--config={config}"] if config is not None else []), *as_flags(given)])


def _names(words: Sequence[str]) -> set[str]:
    return {flag_name(word) for word in words if is_flag(word)}
