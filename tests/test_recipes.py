"""Every shipped recipe: its lab note is whole, its figures hold together, and its settings train."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Trainer

from pipeline import config
from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.runs.files import read_json
from pipeline.runs.folder import TRAINER_STATE
from pipeline.workflows.train import ARGUMENTS

NAMES = sorted(path.stem for path in config.RECIPES.glob("*.yaml"))
DRAWN_HERE = [name for name in NAMES if name.startswith("synthetic-")]  # measured in the README, on two cores
DOWNLOADED = [name for name in NAMES if name not in DRAWN_HERE]
VIT_PAPER = ["flowers102-384", "flowers102-vit-large-patch32"]

# How many images the official train split has.
TRAIN_IMAGES = {"dpdl-benchmark/oxford_flowers102": 1020, "AI-Lab-Makerere/beans": 1034}

Run = Callable[..., tuple[int, str, str]]


def parse(name: str, *flags: str) -> tuple[ModelArguments, DataArguments, FineTuningArguments]:
    words = ["--config", name, "--precision=fp32", "--use_cpu", *flags]
    model, data, _, _, training = config.parse(config.read_command_line("train", words), ARGUMENTS)
    return model, data, training


def every_argument(name: str) -> tuple[Any, ...]:
    return config.parse(config.read_command_line("train", ["--config", name, "--use_cpu"]), ARGUMENTS)


def header(name: str) -> list[str]:
    lines = config.recipe_path(name).read_text(encoding="utf-8").splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


def notes(name: str) -> dict[str, str]:
    """`# Data: ...` and its siblings, each with the lines that go on, which are indented."""
    text = re.sub(r"\n#   +", " ", "\n".join(header(name)))
    return dict(re.findall(r"^# ([A-Z][a-z ]+): (.+)$", text, re.MULTILINE))


def num_steps(data: DataArguments, args: FineTuningArguments) -> int:
    if args.max_steps > 0:
        return args.max_steps
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return math.ceil(TRAIN_IMAGES[str(data.dataset_name)] / batch) * int(args.num_train_epochs)


def test_the_recipes_are_the_files_of_the_folder() -> None:
    assert len(DOWNLOADED) >= 8
    assert sorted(config.shipped_recipes()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_an_argument_and_says_its_value_once(name: str) -> None:
    text = config.recipe_path(name).read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    assert sorted(keys) == sorted(yaml.safe_load(text))
    _, data, training = parse(name)
    assert all(sum(hasattr(arguments, key) for arguments in every_argument(name)) == 1 for key in keys)
    assert data.dataset_name
    assert 0 < training.learning_rate < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_says_what_it_is_in_the_width_of_help(name: str) -> None:
    title = header(name)[0]
    assert title.startswith("# ")
    assert 20 < len(title) < 120


@pytest.mark.parametrize("name", NAMES)
def test_the_lab_note_is_whole(name: str) -> None:
    assert header(name)[1:4] == ["#", f"# vit-pipeline train --config {name}", "#"]
    said = notes(name)
    assert list(said) == ["Data", "Settings", "Published", "Measured by us"]
    source = re.search(r"arXiv:\d{4}\.\d{5}|the card of \w+/[\w-]+ on the Hub", said["Published"])
    assert source or said["Published"].startswith("nothing published")
    if "%" in said["Published"]:
        assert source, "a figure without its source"
    assert re.match(r"not run here|\d", said["Measured by us"])


@pytest.mark.parametrize("name", DOWNLOADED)
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_batch_is_the_same_whatever_the_processes(
    name: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuningArguments, "world_size", processes)
    _, _, args = parse(name)
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
    assert batch == yaml.safe_load(config.recipe_path(name).read_text())["global_batch_size"]


@pytest.mark.parametrize("name", DOWNLOADED)
def test_warm_up_ends_before_the_run_and_the_last_step_is_scored(name: str) -> None:
    _, data, args = parse(name)
    steps = num_steps(data, args)
    warmup = args.get_warmup_steps(steps)
    assert warmup <= steps / 4
    assert args.save_strategy == args.eval_strategy
    if args.eval_strategy == "steps":
        assert args.save_steps == args.eval_steps
        assert steps % int(args.eval_steps or 0) == 0
        assert steps / int(args.eval_steps or 0) >= 10


@pytest.mark.parametrize("name", VIT_PAPER)
def test_the_recipe_of_the_vit_paper_is_what_the_paper_says(name: str) -> None:
    model, data, args = parse(name)
    assert (args.max_steps, args.get_warmup_steps(500), args.lr_scheduler_type) == (500, 100, "cosine")
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 512
    assert (args.learning_rate, args.max_grad_norm) == (0.003, 1.0)
    assert model.head_init == "zero"
    assert model.image_size == 384 or model.model_name_or_path.endswith("-384")
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = kind([torch.nn.Parameter(torch.zeros(1))], **options)
    assert kind is torch.optim.SGD
    assert {key: optimizer.defaults[key] for key in ("momentum", "weight_decay", "nesterov")} == {
        "momentum": 0.9,
        "weight_decay": 0,
        "nesterov": False,
    }
    assert math.ceil(TRAIN_IMAGES[str(data.dataset_name)] / 512) == 2


def test_recipes_that_share_their_settings_share_all_of_them() -> None:
    base, large = (yaml.safe_load(config.recipe_path(name).read_text()) for name in VIT_PAPER)
    differing = {key for key in base.keys() | large.keys() if base.get(key) != large.get(key)}
    assert differing == {"model_name_or_path", "image_size"}


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_train(name: str, vit_pipeline: Run, tiny_vit: Path, photos: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "model_name_or_path": tiny_vit,
        "dataset_name": photos,
        "image_size": 16,
        "per_device_train_batch_size": 6,
        "global_batch_size": 12,
        "max_steps": 2,
        "eval_steps": 2,
        "save_steps": 2,
        "precision": "fp32",
        "dataloader_num_workers": 0,
        "output_dir": tmp_path / name,
    }
    code, _, err = vit_pipeline("train", "--config", name, *(f"--{key}={value}" for key, value in small.items()))
    assert code == 0, err
    log = read_json(tmp_path / name / TRAINER_STATE)["log_history"]
    assert [row["step"] for row in log if "eval_accuracy" in row] == [2]
    assert all(math.isfinite(row["loss"]) for row in log if "loss" in row)
