"""What a call of `fit` leaves, to look at."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.strategy import AdaptationArguments
from pipeline.arguments.trainer import FineTuningArguments

COLOURS = ["blue", "green", "red"]
STEPS_AN_EPOCH = 6  # 36 images, 6 a step


def settings_of(**changes: Any) -> Settings:
    """Settings of a run of seconds; each flag finds its group."""
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

    def take(kind: type) -> dict[str, Any]:
        return {f.name: given.pop(f.name) for f in dataclasses.fields(kind) if f.name in given}

    augmentation = AugmentationArguments(**take(AugmentationArguments))
    adaptation = AdaptationArguments(**take(AdaptationArguments))
    return Settings(FineTuningArguments(**given), augmentation, adaptation)


@dataclass
class Fitted:
    """What a call of `fit` left, and what the network saw."""

    folder: Path
    model: PreTrainedModel
    figures: dict[str, Any]
    seen: list[Tensor]
    state: dict[str, Any]

    def log(self, key: str) -> list[float]:
        return [row[key] for row in self.state["log_history"] if key in row]


def stored(checkpoint: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names that they have in memory."""
    return dict(AutoModelForImageClassification.from_pretrained(checkpoint).state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))
