"""Words are converted as `HfArgumentParser` does, and every problem is named."""

import dataclasses
from typing import Any

import pytest
from transformers import HfArgumentParser

from pipeline.arguments.inherited import REJECTED
from pipeline.arguments.settings import GROUPS
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.config import VERBS
from pipeline.config.words import Words, is_flag, read_words

FIELDS = {f.name: f for group in VERBS["train"].classes for f in dataclasses.fields(group)}
SAMPLES = ["1", "0.5", "-1", "1e-3", "nan", "true", "No", "Y", "f", "steps", "none", "", "balanced", "head", '{"a": 1}']


class HuggingFaceParser(HfArgumentParser):  # type: ignore[misc, unused-ignore]
    def error(self, message: str) -> Any:
        raise ValueError(message)

    def add_argument(self, *names: Any, **options: Any) -> Any:
        options.pop("flag", None)
        return super().add_argument(*names, **options)


def read(*words: str) -> Words:
    return read_words(words, FIELDS)


def test_every_flag_is_converted_as_by_the_parser_of_transformers() -> None:
    groups: Any = list(GROUPS)
    theirs = HuggingFaceParser(groups, allow_abbrev=False, add_help=False)
    names = {f.name for group in GROUPS for f in dataclasses.fields(group)}
    assert names == FIELDS.keys()
    for name in sorted(names - REJECTED.keys()):
        for sample in SAMPLES:
            word = f"--{name}={sample}"
            ours = read(word)
            try:
                expected = getattr(theirs.parse_known_args([word])[0], name)
            except ValueError:
                assert ours.problems, word
            else:
                assert repr(ours.values[name]) == repr(expected) or ours.values[name] == expected, word


def test_defaults_are_those_of_the_trainer() -> None:
    heavy = {f.name: f for f in dataclasses.fields(FineTuningArguments)}
    for field in dataclasses.fields(VERBS["train"].groups["training"]):
        theirs, ours = heavy[field.name].default, field.default
        assert ours == theirs or (ours, theirs) == (dataclasses.MISSING, ""), field.name


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--seed", "7"], {"seed": 7}),
        (["--torch_compile", "auto", "--seed", "7"], {"torch_compile": None, "seed": 7}),
        (["--torch_compile", "--seed", "7"], {"torch_compile": True, "seed": 7}),
        (["--torch_compile=False"], {"torch_compile": False}),
        (["--max-steps", "-1"], {"max_steps": -1}),
        (["--auto", "--seed=1"], {"auto": True, "seed": 1}),
        (["--auto", "False"], {"auto": False}),
        (["--report_to", "wandb", "mlflow", "--seed", "1"], {"report_to": ["wandb", "mlflow"], "seed": 1}),
        (["--no_dataloader_pin_memory"], {"dataloader_pin_memory": False}),
        (["--seed", "1", "--seed", "2"], {"seed": 2}),
        (["--optim_args=momentum=0.9, nesterov=True"], {"optim_args": "momentum=0.9, nesterov=True"}),
    ],
)
def test_a_flag_can_be_written_in_several_ways(words: list[str], values: dict[str, Any]) -> None:
    assert read(*words) == Words(values)


def test_words_without_a_flag_are_kept_in_their_order() -> None:
    assert read("a.jpg", "--seed", "1", "b.jpg", "--auto", "c.jpg", "--", "--d.jpg").positional == [
        "a.jpg", "b.jpg", "c.jpg", "--d.jpg",
    ]  # fmt: skip
    assert not any(map(is_flag, ["-1", "-.5", "-a.jpg", "--a b", "a"]))


def test_every_problem_is_named_at_once() -> None:
    problems = read(
        "--seed", "lucky", "--learning_rate", "--fixres=maybe", "--strategy=half", "--mixupp", "1", "2"
    ).problems
    assert problems == [
        "--seed lucky is not an integer: use a value such as 42",
        "--learning_rate has no value: add one after the flag",
        "--fixres maybe is not a truth value: use true or false",
        "--strategy half is unknown: use full, head, lora",
        "unknown flag --mixupp (did you mean '--mixup'?)",
    ]


def test_a_rejected_flag_is_refused_with_its_reason_whatever_its_value() -> None:
    assert read("--fsdp").problems == [f"--fsdp is not supported: {REJECTED['fsdp']}"]
    assert read("--bf16=perhaps").problems == [f"--bf16 is not supported: {REJECTED['bf16']}"]
