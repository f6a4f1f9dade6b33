"""Recipes and argument parsing, torch-free: YAML + flags -> dataclasses.

A recipe is read as text and turned into flags that stand in front of the user's, so that one parser converts and
checks both. Which flags there are is in `pipeline.arguments` and, for the Trainer's own, in `training.arguments`.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pipeline.errors import PipelineError, did_you_mean, refuse

RECIPES = Path(__file__).parent / "configs"

# Flags of transformers 4, of the example script, and of the tutorials, with what to type instead.
REMOVED = {
    "evaluation_strategy": "it is --eval_strategy now",
    "warmup_ratio": "it is --warmup_steps now: a value below 1 is a share of all steps",
    "no_cuda": "it is --use_cpu now",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "overwrite_output_dir": "choose another --output_dir, or remove the old folder",
    "save_safetensors": "weights are always safetensors: leave it out",
    "group_by_length": "images have no length: leave it out",
    "use_mps_device": "the device is found: leave it out",
    "fp16_backend": "use --precision fp16",
    "half_precision_backend": "use --precision fp16",
    "per_gpu_train_batch_size": "it is --per_device_train_batch_size now",
    "per_gpu_eval_batch_size": "it is --per_device_eval_batch_size now",
    "push_to_hub_token": "log in with `hf auth login`, or set HF_TOKEN",
    "push_to_hub_model_id": "it is --hub_model_id OWNER/NAME now",
    "push_to_hub_organization": "it is --hub_model_id OWNER/NAME now",
    "include_inputs_for_metrics": "metrics need no inputs: leave it out",
    "ignore_mismatched_sizes": "a head of another size is always made anew, and nothing else: leave it out",
    "zero_head": "it is --head_init zero now",
    "train_dir": "use --dataset_name FOLDER, with the class folders below FOLDER/train",
    "validation_dir": "use --dataset_name FOLDER, with the class folders below FOLDER/validation",
    "train_val_split": "it is --validation_fraction here",
    "max_predict_samples": "it is --max_test_samples here",
    "max_val_samples": "it is --max_eval_samples here",
    "trust_remote_code": "no code is loaded from the Hub: leave it out",
    "token": "log in with `hf auth login`, or set HF_TOKEN",
    "use_auth_token": "log in with `hf auth login`, or set HF_TOKEN",
}


@dataclass(frozen=True)
class CommandLine:
    """What a verb was called with: the flags of its recipe, then the user's, which win."""

    verb: str
    recipe: str | None
    recipe_flags: Sequence[str]
    flags: Sequence[str]


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises one line instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message with only the flag's first spelling.

        Raises:
            PipelineError: Always.
        """
        raise PipelineError(re.sub(r"argument (--\w+)\S*:", r"\1:", message))


def read_command_line(verb: str, words: Sequence[str]) -> CommandLine:
    """Split off `--config` and read that recipe.

    Raises:
        PipelineError: If the recipe does not exist or is no flat YAML file, or a flag is a removed one.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, flags = parser.parse_known_args(words)
    refuse(_removed(flag_name(word) for word in flags if word.startswith("--")))
    recipe_flags = recipe_as_flags(known.config) if known.config else []
    return CommandLine(verb, known.config, recipe_flags, flags)


def flag_name(word: str) -> str:
    """`--learning-rate=1e-3` -> `learning_rate`."""
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def recipe_path(name: str) -> Path:
    """The file of a recipe: a path to a YAML file, or the name of a shipped one.

    Raises:
        PipelineError: If there is neither.
    """
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    names = sorted(shipped_recipes())
    raise PipelineError(f"no recipe or file {name!r}{did_you_mean(name, names)}; the recipes are: {', '.join(names)}")


def shipped_recipes() -> dict[str, str]:
    """Names of the shipped recipes with the first line of each, which says what it does."""
    return {p.stem: p.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for p in RECIPES.glob("*.yaml")}


def recipe_as_flags(name: str) -> list[str]:
    """Read a recipe as text and return it as flags.

    `BaseLoader` keeps every value a string: PyYAML would read `2e-5` as a string but `no` as False.

    Raises:
        PipelineError: If the file is missing, no YAML, nested, or has a removed key.
    """
    path = recipe_path(name)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}  # noqa: S506 (strings only)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PipelineError(f"{path} is no readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path} must hold lines `key: value`")
    refuse(f"{path}: {problem}" for problem in _removed(content))
    given = {key: value for key, value in content.items() if value not in ("", "null", "~")}
    return [word for key, value in given.items() for word in _as_flag(key, value)]


def parse(line: CommandLine, classes: Sequence[type], *, positional: str | None = None) -> tuple[Any, ...]:
    """Turn a command line into its dataclasses, and the list of positional words if the verb takes any.

    Args:
        line: From `read_command_line`.
        classes: Dataclasses whose fields are the flags.
        positional: Name of the words without a flag, or None where the verb takes none.

    Raises:
        PipelineError: If a flag or key is unknown, or a value has the wrong type; all unknown ones at once.
    """
    known = [f.name for c in classes for f in dataclasses.fields(c)]
    parser = _parser(classes)
    try:
        _, rest = parser.parse_known_args(list(line.recipe_flags))
        refuse(_unknown(rest, known, sign=""))
    except PipelineError as error:
        assert line.recipe is not None
        raise PipelineError(f"{recipe_path(line.recipe)}: {str(error).replace('--', '')}") from error
    _, rest = parser.parse_known_args([*line.recipe_flags, *line.flags])
    words = [word for word in rest if not word.startswith("--")]
    refuse(_unknown([w for w in rest if w.startswith("--")] if positional else rest, known))
    given, _ = parser.parse_known_args([*line.recipe_flags, *line.flags])
    parsed = _build(classes, vars(given))
    return (*parsed, words) if positional else parsed


def _build(classes: Sequence[type], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Build every dataclass, so that what is wrong with one does not hide what is wrong with another."""
    built, problems = [], []
    for c in classes:
        try:
            built.append(c(**{f.name: values[f.name] for f in dataclasses.fields(c) if f.init}))
        except PipelineError as error:
            problems.append(str(error))
        except ValueError as error:  # a combination that TrainingArguments refuses
            problems.append(" ".join(str(error).split()))
    refuse(problems)
    return tuple(built)


def full_help(line: CommandLine, classes: Sequence[type]) -> str:
    """Every flag of a verb, as argparse lists them."""
    text: str = _parser(classes, prog=f"vit-pipeline {line.verb}").format_help()
    return text


def _parser(classes: Sequence[Any], prog: str | None = None) -> Any:
    from transformers import HfArgumentParser  # a second to import, and not needed to say `unknown verb`

    class FlagParser(Parser, HfArgumentParser):
        """HfArgumentParser that raises one line."""

    return FlagParser(list(classes), prog=prog, allow_abbrev=False, add_help=False)


def _as_flag(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    return [f"--{key}", *value] if isinstance(value, list) else [f"--{key}={value}"]


def _removed(names: Iterable[str]) -> list[str]:
    return [f"{name} is not a flag any more: {REMOVED[name]}" for name in names if name in REMOVED]


def _unknown(words: Sequence[str], known: Sequence[str], *, sign: str = "--") -> list[str]:
    """One line for each word that no flag took; the value behind an unknown flag is not named again."""
    return [
        f"unknown flag {sign}{flag_name(word)}{did_you_mean(sign + flag_name(word), [sign + k for k in known])}"
        if word.startswith("--")
        else f"unexpected argument {word!r}"
        for before, word in zip(["", *words], words, strict=False)
        if word.startswith("--") or not before.startswith("--") or "=" in before
    ]
