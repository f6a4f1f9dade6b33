"""One image on its way through a network: what each step of a Vision Transformer computes, as arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.errors import raise_problems
from pipeline.evaluation.explanations.legrad import LeGrad
from pipeline.evaluation.explanations.recording import Recorded, logits_after, record
from pipeline.images.processor import Normalize
from pipeline.models.classifier import ImageClassifier
from pipeline.models.layers import block_names

Array = NDArray[np.float32]
TOP = 5


@dataclass(frozen=True)
class Head:
    """What one attention head computes for the first query: that of the class token, or of the center patch.

    Attributes:
        layer: Its layer, from 1.
        number: Its number, from 1.
        size: Length of its queries, keys and values.
        scores: Scaled products of the query and the key of each patch (rows, columns).
        values: Length of the value of each patch (rows, columns).
        attention: Attention of the query to each patch (rows, columns).
    """

    layer: int
    number: int
    size: int
    scores: Array
    values: Array
    attention: Array


@dataclass(frozen=True)
class Walk:
    """The steps.

    Attributes:
        pixels: The image that the network receives, uint8 (height, width, 3).
        grid: Rows and columns of the patches.
        num_prefix_tokens: Tokens before the patches.
        embeddings: Patch embeddings (rows, columns, hidden size), without positions.
        positions: Cosine similarity of the position embeddings of any two patches (rows, columns, rows, columns), or
            None if the network has none.
        head: The chosen head.
        num_heads: Heads of each layer.
        attention: Attention to each patch, mean over the heads of a layer (layers, rows, columns): from the class
            token, or from all patches if the network lacks a class token.
        probabilities: Probabilities after each layer (layers, classes). The last ones are those of the network.
        relevance: The relevance map of the predicted class (rows, columns).
        class_names: Names of the classes.
    """

    pixels: NDArray[np.uint8]
    grid: tuple[int, int]
    num_prefix_tokens: int
    embeddings: Array
    positions: Array | None
    head: Head
    num_heads: int
    attention: Array
    probabilities: Array
    relevance: Array
    class_names: list[str]


def walk(
    classifier: ImageClassifier, method: LeGrad, pixels: Tensor, *, layer: int | None = None, head: int | None = None
) -> Walk:
    """Follow one image through a network.

    Args:
        classifier: The classifier.
        method: LeGrad for its network.
        pixels: The image from the image processor (3, height, width).
        layer: The layer of the chosen head, from 1. Default: the last one.
        head: The chosen head, from 1. Default: the first one.

    Raises:
        PipelineError: If the network has fewer layers or heads.
    """
    model, batch = classifier.model, pixels[None].to(classifier.model.device)
    embedded: list[Tensor] = []
    handle = _patch_projection(model).register_forward_hook(lambda _m, _a, output: embedded.append(output.detach()))
    try:
        recorded = record(model, batch)
    finally:
        handle.remove()
    layers, heads = len(recorded.attention), recorded.attention[0].shape[1]
    raise_problems(
        f"--{name} {given} is more than the {most} of the network: use a number from 1 to {most}"
        for name, given, most in (("layer", layer, layers), ("head", head, heads))
        if given is not None and given > most
    )
    logits = logits_after(model, recorded.hidden, batch).detach()[:, 0]
    return Walk(
        pixels=Normalize(classifier.processor).undo(batch)[0].permute(1, 2, 0).numpy(),
        grid=method.grid,
        num_prefix_tokens=method.num_prefix_tokens,
        embeddings=embedded[0][0].permute(1, 2, 0).cpu().numpy(),
        positions=_position_similarity(model, method.num_prefix_tokens),
        head=_head(recorded, method, layer or layers, head or 1),
        num_heads=heads,
        attention=_attention(recorded, method),
        probabilities=logits.softmax(dim=1).cpu().numpy(),
        relevance=method.explain(batch).relevance(logits[-1:].argmax(dim=1))[0].cpu().numpy(),
        class_names=classifier.class_names,
    )


def _patch_projection(model: PreTrainedModel) -> nn.Module:
    """Return the convolution that turns patches into embeddings: the first one of the network."""
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def _position_similarity(model: PreTrainedModel, prefix: int) -> Array | None:
    """Return the cosine similarity of the position embeddings, in the grid in which they are stored."""
    before_blocks = model.get_submodule(block_names(model)[0].split(".")[0])
    for name, weight in before_blocks.named_parameters():
        if name.rpartition("embeddings.")[2] in ("position_embeddings", "position_embedding.weight"):
            positions = weight.detach().flatten(0, -2)[prefix:].float()
            side = round(len(positions) ** 0.5)
            if side * side != len(positions):
                return None
            unit = nn.functional.normalize(positions, dim=1)
            similarity: Any = (unit @ unit.T).view(side, side, side, side).cpu().numpy()
            return similarity  # type: ignore[no-any-return]
    return None


def _query_token(method: LeGrad) -> int:
    """Return the token whose query is shown."""
    rows, columns = method.grid
    return 0 if method.num_prefix_tokens else rows // 2 * columns + columns // 2


def _head(recorded: Recorded, method: LeGrad, layer: int, head: int) -> Head:
    query, key, value, attention = (
        tensors[layer - 1][0, head - 1].detach()
        for tensors in (recorded.query, recorded.key, recorded.value, recorded.attention)
    )
    token, size = _query_token(method), query.shape[-1]

    def on_grid(tokens: Tensor) -> Array:
        values: Array = tokens[method.num_prefix_tokens :].unflatten(0, method.grid).cpu().numpy()
        return values

    scores = key @ query[token] * size**-0.5
    return Head(layer, head, size, on_grid(scores), on_grid(value.norm(dim=1)), on_grid(attention[token]))


def _attention(recorded: Recorded, method: LeGrad) -> Array:
    if method.num_prefix_tokens:
        maps = method.class_token_attention(recorded)[:, 0].mean(dim=1)
    else:
        maps = torch.stack(recorded.attention).detach()[:, 0].mean(dim=(1, 2)).unflatten(1, method.grid)
    values: Array = maps.cpu().numpy()
    return values
