"""Recipes and argument parsing, torch-free: YAML and flags, or Python keyword arguments -> dataclasses.

A recipe is read as text and turned into flags in front of the user's, and keyword arguments are turned into flags too,
so that one parser converts and checks all of them. The flags are declared in `pipeline.arguments`.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pipeline.arguments import checks
from pipeline.errors import PipelineError, did_you_mean, raise_problems

RECIPES = Path(__file__).parent / "configs"

# Flags of transformers 4, of the example script, of tutorials, and of earlier versions -> what to type instead.
REMOVED = {
    "evaluation_strategy": "use --eval_strategy",
    "warmup_ratio": "use --warmup_steps: a value below 1 is a fraction of all steps",
    "no_cuda": "use --use_cpu",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "overwrite_output_dir": "use another --output_dir, or remove the old folder",
    "save_safetensors": "remove it: weights are always saved as safetensors",
    "group_by_length": "remove it: images have no length",
    "use_mps_device": "remove it: the device is detected",
    "fp16_backend": "use --precision fp16",
    "half_precision_backend": "use --precision fp16",
    "per_gpu_train_batch_size": "use --per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use --per_device_eval_batch_size",
    "push_to_hub_token": "log in with `hf auth login`, or set HF_TOKEN",
    "push_to_hub_model_id": "use --hub_model_id OWNER/NAME",
    "push_to_hub_organization": "use --hub_model_id OWNER/NAME",
    "include_inputs_for_metrics": "remove it: metrics need no inputs",
    "ignore_mismatched_sizes": "remove it: a head of another size is always replaced, and nothing else",
    "zero_head": "use --head_init zero",
    "recipe": "use --auto",
    "soup": "use --ema_decay 0.99 to average weights",
    "compile": "use --torch_compile",
    "train_dir": "use --dataset_name FOLDER, with the class folders in FOLDER/train",
    "validation_dir": "use --dataset_name FOLDER, with the class folders in FOLDER/validation",
    "train_val_split": "use --validation_fraction",
    "max_predict_samples": "use --max_test_samples",
    "max_val_samples": "use --max_eval_samples",
    "trust_remote_code": "remove it: code from the Hub is never run",
    "token": "log in with `hf auth login`, or set HF_TOKEN",
    "use_auth_token": "log in with `hf auth login`, or set HF_TOKEN",
}


@dataclass(frozen=True)
class CommandLine:
    """The call of a verb.

    Attributes:
        verb: The verb.
        recipe: The value of `--config`.
        recipe_flags: The flags of the recipe.
        flags: The flags of the user, which override those of the recipe.
    """

    verb: str
    recipe: str | None
    recipe_flags: Sequence[str]
    flags: Sequence[str]

    @property
    def words(self) -> list[str]:
        """The call as the words of a command line."""
        return [self.verb, *([f"--config={self.recipe}"] if self.recipe else []), *self.flags]

    @property
    def given(self) -> set[str]:
        """The names of the flags that the recipe or the user gave."""
        return {flag_name(word) for word in (*self.recipe_flags, *self.flags) if word.startswith("--")}


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises one line instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message with only the first spelling of the flag.

        Raises:
            PipelineError: Always.
        """
        raise PipelineError(re.sub(r"argument (--\w+)\S*:", r"\1:", message))

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add a flag; its role in a run (`arguments.flags.Flag`) is not for argparse."""
        options.pop("flag", None)
        return super().add_argument(*names, **options)


def read_command_line(verb: str, words: Sequence[str]) -> CommandLine:
    """Separate `--config` from the other words, and read its recipe.

    Raises:
        PipelineError: If the recipe is missing or is not a flat YAML file, or a flag was removed.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, flags = parser.parse_known_args(words)
    raise_problems(_removed(flag_name(word) for word in flags if word.startswith("--")))
    recipe_flags = recipe_as_flags(known.config) if known.config else []
    return CommandLine(verb, known.config, recipe_flags, flags)


def read_call(verb: str, config: str | Path | None, flags: Mapping[str, Any]) -> CommandLine:
    """Return a call from Python as a command line. A flag that is None has its default.

    Raises:
        PipelineError: As `read_command_line`.
    """
    words = [f"--config={config}"] if config is not None else []
    for name, value in flags.items():
        if value is not None:
            words += _as_flag(name, value)
    return read_command_line(verb, words)


def flag_name(word: str) -> str:
    """Return the name of a flag: `--learning-rate=1e-3` -> `learning_rate`."""
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def recipe_path(name: str) -> Path:
    """Return the file of a recipe: a path to a YAML file, or the name of a shipped one.

    Raises:
        PipelineError: If there is neither.
    """
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    names = sorted(shipped_recipes())
    raise PipelineError(f"unknown recipe or file {name!r}{did_you_mean(name, names)}: use {', '.join(names)}")


def shipped_recipes() -> dict[str, str]:
    """Return the names of the shipped recipes with the first line of each, which describes it."""
    return {p.stem: p.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for p in RECIPES.glob("*.yaml")}


def recipe_as_flags(name: str) -> list[str]:
    """Read a recipe as text and return it as flags.

    `BaseLoader` keeps every value a string: PyYAML would read `2e-5` as a string but `no` as False.

    Raises:
        PipelineError: If the file is missing, is not YAML, is nested, or has a removed key.
    """
    path = recipe_path(name)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}  # noqa: S506 (strings only)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PipelineError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path} is not a recipe: write one `key: value` per line")
    raise_problems(f"{path}: {problem.replace('--', '')}" for problem in _removed(content))
    given = {key: value for key, value in content.items() if value not in ("", "null", "~")}
    return [word for key, value in given.items() for word in _as_flag(key, value)]


def parse(
    line: CommandLine,
    classes: Sequence[type],
    *,
    positional: str | None = None,
    check: Callable[..., Iterable[str]] | None = None,
) -> tuple[Any, ...]:
    """Turn a command line into its dataclasses, and the list of positional words if the verb has any.

    Args:
        line: From `read_command_line`.
        classes: Dataclasses whose fields are the flags.
        positional: Name of the words without a flag, or None if the verb has none.
        check: Gets what this returns and yields further problems, which are raised together with the others.

    Raises:
        PipelineError: If a flag or key is unknown, a value is invalid, or flags cannot be combined; all problems at
            once, except for values of a wrong type.
    """
    known = [f.name for c in classes for f in dataclasses.fields(c)]
    parser = _parser(classes)
    try:
        _, rest = parser.parse_known_args(list(line.recipe_flags))
        raise_problems(_unknown(rest, known, sign=""))
    except PipelineError as error:
        assert line.recipe is not None
        raise PipelineError(f"{recipe_path(line.recipe)}: {str(error).replace('--', '')}") from error
    given, rest = parser.parse_known_args([*line.recipe_flags, *line.flags])
    words = [word for word in rest if not word.startswith("--")]
    raise_problems(_unknown([w for w in rest if w.startswith("--")] if positional else rest, known))
    parsed, problems = _build(classes, vars(given))
    result = (*parsed, words) if positional else parsed
    if check is not None and len(parsed) == len(classes):
        problems += check(*result)
    raise_problems(problems)
    return result


def _build(classes: Sequence[type], values: Mapping[str, Any]) -> tuple[tuple[Any, ...], list[str]]:
    """Return every dataclass that can be built, and the problems of all of them and of their combinations."""
    built, problems = [], []
    for c in classes:
        try:
            built.append(c(**{f.name: values[f.name] for f in dataclasses.fields(c) if f.init}))
        except PipelineError as error:
            problems.append(str(error))
        except ValueError as error:  # a combination that TrainingArguments rejects
            problems.append(" ".join(str(error).split()))
    return tuple(built), [*problems, *checks.find_problems(built)]


def full_help(line: CommandLine, classes: Sequence[type]) -> str:
    """Return every flag of a verb, as argparse lists them."""
    text: str = _parser(classes, prog=f"vit-pipeline {line.verb}").format_help()
    return text


def _parser(classes: Sequence[Any], prog: str | None = None) -> Any:
    from transformers import HfArgumentParser  # takes a second to import, which `unknown verb` need not wait for

    class FlagParser(Parser, HfArgumentParser):
        """HfArgumentParser that raises one line."""

    return FlagParser(list(classes), prog=prog, allow_abbrev=False, add_help=False)


def _as_flag(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    return [f"--{key}", *map(str, value)] if isinstance(value, list | tuple) else [f"--{key}={value}"]


def _removed(names: Iterable[str]) -> list[str]:
    return [f"--{name} does not exist any more: {REMOVED[name]}" for name in names if name in REMOVED]


def _unknown(words: Sequence[str], known: Sequence[str], *, sign: str = "--") -> list[str]:
    """Return one line for each word that is not a known flag; the value after an unknown flag is not reported too."""
    return [
        f"unknown flag {sign}{flag_name(word)}{did_you_mean(sign + flag_name(word), [sign + k for k in known])}"
        if word.startswith("--")
        else f"unexpected argument {word!r}"
        for before, word in zip(["", *words], words, strict=False)
        if word.startswith("--") or not before.startswith("--") or "=" in before
    ]
