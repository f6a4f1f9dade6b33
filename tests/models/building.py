"""Helpers to build a model, compare the weights of two models and compute logits."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.arguments.model import ModelArguments
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from tests.conftest import COLORS


def new_classifier(folder: Path, classes: list[str] | None = None, *, seed: int = 0, **changes: Any) -> ImageClassifier:
    """Return the classifier that training would start from. Default classes: the three colors."""
    arguments = ModelArguments(model_name_or_path=str(folder), **changes)
    return build_classifier(arguments, class_names=classes or list(COLORS), seed=seed)


def build(folder: Path, classes: list[str] | None = None, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return the network of `new_classifier`."""
    return new_classifier(folder, classes, seed=seed, **changes).model


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    """Return the names of the tensors that differ or that only one of the state dicts has."""
    equal = {name for name in first.keys() & second.keys() if torch.equal(first[name], second[name])}
    return (first.keys() | second.keys()) - equal


@torch.inference_mode()
def logits(model: Any, images: Tensor) -> Tensor:
    output: Tensor = model.eval()(pixel_values=images).logits
    return output
