"""LeGrad (Bousselham et al. 2024, arXiv:2404.03214), weighted by attention: relevance from all attention maps.

The original method averages the positive gradients. Here each gradient is multiplied by its attention first, because a
network that pools over patches has large gradients where it does not attend: on images in which one planted patch is
the class, a small BEiT finds the patch in 98% of the images with the weights, and in 12% without them.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.evaluation.explanations.recording import Recorded, logits_after, record, record_prefix
from pipeline.evaluation.explanations.relevance import Explained


@dataclass(frozen=True)
class LeGrad:
    """Relevance maps of a network in which every patch attends to all tokens.

    For each layer, the head is applied to the output of the layer, and the gradient of the logit with respect to the
    attention map of the layer is multiplied by this map. The positive part is averaged over heads, queries and layers.

    If the head reads nothing but the tokens before the patches, such as the class token, all other queries have a
    gradient of 0. Then only these tokens are differentiated, and a map costs little more than a forward pass.

    Attributes:
        model: The network.
        grid: Rows and columns of the patches. They are the last tokens.
        num_prefix_tokens: Tokens before the patches.
        reads_prefix: Whether the head reads nothing but them.
    """

    model: PreTrainedModel
    grid: tuple[int, int]
    num_prefix_tokens: int
    reads_prefix: bool

    name = "LeGrad"

    @classmethod
    def of(cls, model: PreTrainedModel, pixel_values: Tensor, grid: tuple[int, int]) -> "LeGrad | None":
        """Return the method if the network fits, or None.

        Args:
            model: The network.
            pixel_values: Any image (1, 3, height, width).
            grid: Rows and columns of the patches.
        """
        recorded = record(model, pixel_values)
        shapes = {tuple(hidden.shape) for hidden in recorded.hidden}
        lengths = {attention.shape[-2:] for attention in recorded.attention}
        if len(shapes) != 1 or len(lengths) != 1 or len(recorded.attention) != len(recorded.hidden):
            return None
        tokens = recorded.hidden[0].shape[1]
        prefix = tokens - grid[0] * grid[1]
        if prefix < 0 or lengths != {torch.Size([tokens, tokens])}:
            return None
        return cls(model, grid, prefix, reads_prefix=_reads_prefix(model, recorded, prefix, pixel_values))

    def explain(self, pixel_values: Tensor) -> Explained:
        """Run the network on a batch."""
        recorded = (
            record_prefix(self.model, pixel_values, self.num_prefix_tokens)
            if self.reads_prefix
            else record(self.model, pixel_values)
        )
        logits = logits_after(self.model, recorded.hidden, pixel_values)
        attention = self.class_token_attention(recorded) if self.num_prefix_tokens else None
        return Explained(recorded.logits.detach(), attention, partial(self._relevance, recorded, logits))

    def class_token_attention(self, recorded: Recorded) -> Tensor:
        """Return how much the class token attends to each patch: (layers, batch, heads, rows, columns)."""
        to_patches = torch.stack(recorded.attention).detach()[..., 0, self.num_prefix_tokens :]
        maps: Tensor = to_patches.unflatten(-1, self.grid)
        return maps

    @torch.enable_grad()  # the inference loop has switched gradients off
    def _relevance(self, recorded: Recorded, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the maps (batch, rows, columns) for one class of each image."""
        chosen = logits.gather(2, classes.expand(len(logits), -1).unsqueeze(2))
        gradients = torch.autograd.grad(chosen.sum(), recorded.attention, retain_graph=True)
        layers = [
            (gradient * attention.detach()).relu().sum(dim=2).mean(dim=1) / attention.shape[3]
            for gradient, attention in zip(gradients, recorded.attention, strict=True)
        ]
        maps: Tensor = torch.stack(layers).mean(dim=0)[:, self.num_prefix_tokens :].unflatten(1, self.grid)
        return maps


def _reads_prefix(model: PreTrainedModel, recorded: Recorded, prefix: int, pixel_values: Tensor) -> bool:
    """Return whether the logits, and the prefix tokens after each block, are the same without the other queries."""
    if not prefix:
        return False
    try:
        alone = record_prefix(model, pixel_values, prefix)
        logits = logits_after(model, alone.hidden[-1:], pixel_values)[0]
    except (RuntimeError, ValueError, TypeError, IndexError):  # a block or a head needs all tokens
        return False
    pairs = [(logits, recorded.logits), *zip(alone.hidden, (each[:, :prefix] for each in recorded.hidden), strict=True)]
    return all(found.shape == full.shape and torch.allclose(found, full, rtol=1e-3, atol=1e-4) for found, full in pairs)
