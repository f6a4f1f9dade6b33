"""A model built in few words, and two models' weights compared."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.arguments.model import ModelArguments
from pipeline.models.build import build_model
from tests.conftest import COLOURS


def build(folder: Path, classes: list[str] | None = None, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """The network for the three colours, or for other classes."""
    arguments = ModelArguments(model_name_or_path=str(folder), **changes)
    return build_model(arguments, class_names=classes or list(COLOURS), seed=seed)[1]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that are not the same, or not in both."""
    same = {name for name in one.keys() & other.keys() if torch.equal(one[name], other[name])}
    return (one.keys() | other.keys()) - same


@torch.inference_mode()
def logits(model: Any, images: Tensor) -> Tensor:
    answer: Tensor = model.eval()(pixel_values=images).logits
    return answer
