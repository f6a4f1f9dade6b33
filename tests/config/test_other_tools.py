"""Flags of other tools are answered with the flag that does the same here."""

import dataclasses
import re

import pytest

from pipeline.config import REMOVED, VERBS
from pipeline.config.other_tools import OTHER_TOOLS, explain_unknown_flag

FLAGS = {name: {f.name for group in verb.classes for f in dataclasses.fields(group)} for name, verb in VERBS.items()}


@pytest.mark.parametrize(
    ("verb", "name", "expected"),
    [
        ("train", "lr", "--lr is not a flag here: use --learning_rate"),
        ("train", "b", "-b is not a flag here: use --per_device_train_batch_size"),
        ("train", "model", "use --model_name_or_path"),
        ("predict", "model_name_or_path", "use --model"),
        ("train", "output", "use --output_dir"),
        ("predict", "output_dir", "use --output FILE.csv"),
        ("train", "device", "use --use_cpu, or set CUDA_VISIBLE_DEVICES"),
        ("predict", "device", "is not a flag here: set CUDA_VISIBLE_DEVICES"),
        ("train", "num_classes", "remove it"),
        ("evaluate", "data", "use --dataset_name FOLDER"),
        ("train", "evaluation_strategy", "does not exist any more: use --eval_strategy"),
        ("predict", "epochs", "unknown flag --epochs"),
        ("train", "learning_rat", r"unknown flag --learning_rat \(did you mean '--learning_rate'\?\)"),
    ],
)
def test_an_unknown_flag_is_answered_for_its_verb(verb: str, name: str, expected: str) -> None:
    assert re.search(expected, explain_unknown_flag(name, FLAGS[verb]))


def test_every_hint_names_flags_that_exist() -> None:
    for hint, names in OTHER_TOOLS:
        named = re.findall(r"--(\w+)", hint)
        assert not named or any(set(named) <= flags for flags in FLAGS.values()), hint
        assert any(set(names.split()) - flags for flags in FLAGS.values()), names
    for name, text in REMOVED.items():
        assert name not in FLAGS["train"]
        assert set(re.findall(r"use --(\w+)", text)) <= FLAGS["train"]
