"""Every shipped recipe: its header is complete, its settings are consistent, and they train."""

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
RENDERED = [name for name in NAMES if name.startswith("synthetic-")]
DOWNLOADED = [name for name in NAMES if name not in RENDERED]
VIT_PAPER = ["flowers102-384", "flowers102-vit-large-patch32"]

# The number of images in the official train split.
TRAIN_IMAGES = {"dpdl-benchmark/oxford_flowers102": 1020, "AI-Lab-Makerere/beans": 1034}

Run = Callable[..., tuple[int, str, str]]


def parse_all(name: str) -> tuple[Any, ...]:
    """Return every argument dataclass that the recipe fills."""
    words = ["--config", name, "--precision=fp32", "--use_cpu"]
    return config.parse(config.read_command_line("train", words), ARGUMENTS)


def parse(name: str) -> tuple[ModelArguments, DataArguments, FineTuningArguments]:
    groups = {type(group): group for group in parse_all(name)}
    return groups[ModelArguments], groups[DataArguments], groups[FineTuningArguments]


def header(name: str) -> list[str]:
    lines = config.recipe_path(name).read_text(encoding="utf-8").splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


def sections(name: str) -> dict[str, str]:
    """Return the header's sections by title; the continuation lines of a section are indented."""
    text = re.sub(r"\n#   +", " ", "\n".join(header(name)))
    return dict(re.findall(r"^# ([A-Z][a-z ]+): (.+)$", text, re.MULTILINE))


def num_steps(data: DataArguments, args: FineTuningArguments) -> int:
    if args.max_steps > 0:
        return args.max_steps
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return math.ceil(TRAIN_IMAGES[str(data.dataset_name)] / batch) * int(args.num_train_epochs)


def test_the_recipes_are_the_files_in_the_folder() -> None:
    assert len(DOWNLOADED) >= 8
    assert sorted(config.shipped_recipes()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_a_flag_of_exactly_one_group_and_occurs_once(name: str) -> None:
    text = config.recipe_path(name).read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    assert sorted(keys) == sorted(yaml.safe_load(text))
    _, data, training = parse(name)
    groups = parse_all(name)
    assert all(sum(hasattr(group, key) for group in groups) == 1 for key in keys)
    assert data.dataset_name
    assert 0 < training.learning_rate < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_describes_the_recipe_within_the_width_of_help(name: str) -> None:
    title = header(name)[0]
    assert title.startswith("# ")
    assert 20 < len(title) < 120


@pytest.mark.parametrize("name", NAMES)
def test_the_header_is_complete(name: str) -> None:
    assert header(name)[1:4] == ["#", f"# vit-pipeline train --config {name}", "#"]
    assert all(len(line) <= 120 for line in header(name))
    found = sections(name)
    assert list(found) == ["Data", "Settings", "Published", "Measured by us"]
    source = re.search(r"arXiv:\d{4}\.\d{5}|the card of \w+/[\w-]+ on the Hub", found["Published"])
    assert source or found["Published"].startswith("nothing published")
    if "%" in found["Published"]:
        assert source, "a number without its source"
    assert re.match(
        r"nothing; accuracy and time are unknown|the speed only; the accuracy is unknown|\d", found["Measured by us"]
    )


@pytest.mark.parametrize("name", DOWNLOADED)
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_global_batch_does_not_depend_on_the_number_of_processes(
    name: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuningArguments, "world_size", processes)
    _, _, args = parse(name)
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
    assert batch == yaml.safe_load(config.recipe_path(name).read_text())["global_batch_size"]


@pytest.mark.parametrize("name", DOWNLOADED)
def test_warmup_ends_early_and_the_last_step_is_evaluated(name: str) -> None:
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
def test_the_vit_paper_recipes_have_the_settings_of_the_paper(name: str) -> None:
    model, data, args = parse(name)
    assert (args.max_steps, args.get_warmup_steps(500), args.lr_scheduler_type) == (500, 100, "cosine")
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 512
    assert (args.learning_rate, args.max_grad_norm) == (0.003, 1.0)
    assert model.head_init == "zero"
    assert model.image_size == 384 or model.model_name_or_path.endswith("-384")
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1))], **options)
    assert optimizer_class is torch.optim.SGD
    assert {key: optimizer.defaults[key] for key in ("momentum", "weight_decay", "nesterov")} == {
        "momentum": 0.9,
        "weight_decay": 0,
        "nesterov": False,
    }
    assert math.ceil(TRAIN_IMAGES[str(data.dataset_name)] / 512) == 2


def test_the_vit_paper_recipes_differ_in_model_and_resolution_only() -> None:
    base, large = (yaml.safe_load(config.recipe_path(name).read_text()) for name in VIT_PAPER)
    differing = {key for key in base.keys() | large.keys() if base.get(key) != large.get(key)}
    assert differing == {"model_name_or_path", "image_size"}


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_train(name: str, vit_pipeline: Run, tiny_vit: Path, photos: Path, tmp_path: Path) -> None:
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
