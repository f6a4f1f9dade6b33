"""Settings of short runs, and what a call of `fit` leaves behind."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from pipeline.arguments.settings import GROUPS, Settings

COLORS = ["blue", "green", "red"]
STEPS_PER_EPOCH = 6  # 36 images in batches of 6


def settings_of(**changes: Any) -> Settings:
    """Return the settings of a run of a few seconds; each flag goes to its group."""
    small: dict[str, Any] = {
        "num_train_epochs": 3,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 6,
        "precision": "fp32",
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    given = small | changes

    groups: list[Any] = [
        group(**{f.name: given.pop(f.name) for f in dataclasses.fields(group) if f.name in given}) for group in GROUPS
    ]
    assert not given, f"unknown flags: {given}"
    return Settings(*groups)


@dataclass
class Fitted:
    """What a call of `fit` left behind, the pixels that the network received, and where the images were cached."""

    folder: Path
    model: PreTrainedModel
    metrics: dict[str, Any]
    seen: list[Tensor]
    state: dict[str, Any]
    decisions: dict[str, Any]

    def log(self, key: str) -> list[float]:
        return [row[key] for row in self.state["log_history"] if key in row]


def stored(checkpoint: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint under their names in memory."""
    return dict(AutoModelForImageClassification.from_pretrained(checkpoint).state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))
