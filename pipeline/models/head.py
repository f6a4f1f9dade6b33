"""The classification head of a network: the names of its weights, and its linear layer."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models.checkpoint import family


def head_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights of the head: those whose shape depends on the number of classes.

    This finds the head wherever a family keeps it: next to the backbone, in a sequence, or inside it, as timm does. It
    builds the network once without memory, so call it once for each network (`ImageClassifier.head_names`).
    """
    config = copy.deepcopy(model.config)
    config.num_labels = (config.num_labels or 0) + 1
    with torch.device("meta"):
        other = type(model)(config).state_dict()
    return {name for name, weight in model.state_dict().items() if weight.shape != other[name].shape}


def linear_head(model: PreTrainedModel, names: set[str]) -> nn.Linear:
    """Return the linear layer that computes the logits.

    Args:
        model: The network.
        names: The weights of its head, from `head_names`.

    Raises:
        PipelineError: If the head has several layers, or is not linear.
    """
    layers = sorted({name.rpartition(".")[0] for name in names})
    heads = [model.get_submodule(layer) for layer in layers]
    if len(heads) == 1 and isinstance(heads[0], nn.Linear):
        return heads[0]
    found = ", ".join(f"{type(head).__name__} {layer}" for layer, head in zip(layers, heads, strict=True))
    raise no_linear_head(model, f"its head is not a single linear layer ({found})")


def has_linear_head(model: PreTrainedModel) -> bool:
    """Return whether a single linear layer computes the logits, so that a linear probe can replace it."""
    try:
        linear_head(model, head_names(model))
    except PipelineError:
        return False
    return True


def no_linear_head(model: PreTrainedModel, reason: str) -> PipelineError:
    """Return the error for a network on which a linear probe cannot be fitted."""
    return PipelineError(f"a linear probe cannot be fitted on a {family(model.config)}: {reason}; use --strategy full")
