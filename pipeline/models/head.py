"""The classification head of a network: which weights it has, and its linear layer."""

import copy
import logging

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models.checkpoint import is_timm

logger = logging.getLogger(__name__)


def head_names(model: PreTrainedModel) -> set[str]:
    """Names of the weights of the head: those whose shape depends on the number of classes.

    So it is found wherever a family keeps it: beside the backbone, in a sequence, or inside, as timm does.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = (config.num_labels or 0) + 1
    with torch.device("meta"):  # shapes and no memory
        other = type(model)(config).state_dict()
    return {name for name, weight in model.state_dict().items() if weight.shape != other[name].shape}


def find_head(model: PreTrainedModel) -> nn.Linear:
    """The one linear layer from which the logits come.

    Raises:
        PipelineError: If there are several, or the head is something else.
    """
    layers = {name.rpartition(".")[0] for name in head_names(model)}
    heads = [model.get_submodule(layer) for layer in sorted(layers)]
    if len(heads) == 1 and isinstance(heads[0], nn.Linear):
        return heads[0]
    made_of = ", ".join(f"{type(head).__name__} {layer}" for layer, head in zip(sorted(layers), heads, strict=True))
    raise _unsuitable(model, f"its head is no single linear layer ({made_of})")


def _unsuitable(model: PreTrainedModel, reason: str) -> PipelineError:
    family = model.config.architecture if is_timm(model.config) else model.config.model_type
    return PipelineError(
        f"a {family} has no frozen features to put a probe on: {reason}; train it with --strategy full"
    )
