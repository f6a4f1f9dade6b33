"""LayerCAM (Jiang et al. 2021): relevance from a feature map and its gradients.

LayerCAM keeps the positive gradients, which assumes activations that are not negative, as after ReLU. Activations with
both signs (ConvNeXt, Swin) are multiplied by all gradients, as in HiResCAM (Draelos and Carin 2020).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.evaluation.explanations.recording import blocks_of, first
from pipeline.evaluation.explanations.relevance import Explained

MIN_SIDE = 7
"""Cells of the shorter side of a map: what the last stage of a network has at 224 px. Smaller maps locate little."""


@dataclass(frozen=True)
class LayerCam:
    """Relevance maps of a network whose blocks return feature maps, as convolutional networks and Swin do.

    Each activation is weighted by its gradient, and the positive part of the sum over channels is the relevance. The
    map is that of the last block with at least `MIN_SIDE` cells a side, or of the largest map. If the output of the
    last block is normalized before it is pooled, the normalized output is used, because the norm of a cell makes its
    weighted sum 0.

    Attributes:
        model: The network.
        block: The block, or the norm after the last one, whose output is used.
        grid: Rows and columns of this output.
    """

    model: PreTrainedModel
    block: nn.Module
    grid: tuple[int, int]

    name = "LayerCAM"

    @classmethod
    def of(cls, model: PreTrainedModel, size: tuple[int, int]) -> "LayerCam | None":
        """Return the method if the network fits, or None.

        Args:
            model: The network.
            size: Height and width of the images.
        """
        blocks = blocks_of(model)
        modules, outputs = _feature_maps(model, blocks, size)
        grids = [_grid_of(each, size) for each in outputs]
        fitting = [(min(grid), place) for place, grid in enumerate(grids) if grid is not None]
        if not fitting or any(grid is None for module, grid in zip(modules, grids, strict=True) if module in blocks):
            return None
        large = [(side, place) for side, place in fitting if side >= MIN_SIDE]
        _, place = max(large, key=lambda pair: pair[1]) if large else max(fitting)
        grid = grids[place]
        assert grid is not None
        return cls(model, modules[place], grid)

    def explain(self, pixel_values: Tensor) -> Explained:
        """Run the network on a batch."""
        kept: list[Tensor] = []

        def keep(_block: nn.Module, _args: Any, output: Any) -> Any:
            kept.append(first(output).detach().requires_grad_())  # the graph starts here
            return (kept[0], *output[1:]) if isinstance(output, tuple) else kept[0]

        handle = self.block.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                logits = self.model(pixel_values=pixel_values).logits
        finally:
            handle.remove()

        @torch.enable_grad()  # the inference loop has switched gradients off
        def relevance(classes: Tensor) -> Tensor:
            chosen = logits.gather(1, classes.unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(chosen, kept[0], retain_graph=True)
            features = kept[0].detach()
            weighted = (gradient.relu() if features.min() >= 0 else gradient) * features
            channels = 1 if weighted.ndim == 4 else 2
            return weighted.sum(dim=channels).relu().view(len(classes), *self.grid)

        return Explained(logits.detach(), None, relevance)


def _feature_maps(
    model: PreTrainedModel, blocks: list[nn.Module], size: tuple[int, int]
) -> tuple[list[nn.Module], list[Tensor]]:
    """Return the blocks and the norms after them, in the order of a forward pass, with outputs for a blank image."""
    inside = {module for block in blocks for module in block.modules()}
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm) and m not in inside]
    ran: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, _args: Any, output: Any) -> None:
        ran.append((module, first(output)))

    handles = [module.register_forward_hook(keep) for module in (*blocks, *norms)]
    try:
        with torch.no_grad():
            model(pixel_values=torch.zeros(1, 3, *size, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    last = max((place for place, (module, _) in enumerate(ran) if module in blocks), default=len(ran))
    used = [pair for place, pair in enumerate(ran) if pair[0] in blocks or place > last]
    return [module for module, _ in used], [output for _, output in used]


def _grid_of(hidden: Tensor, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of an output: (batch, channels, rows, columns), or (batch, rows * columns, channels)."""
    height, width = size
    if hidden.ndim == 4:
        rows, columns = hidden.shape[2:]
    elif hidden.ndim == 3:
        rows = round((hidden.shape[1] * height / width) ** 0.5)
        columns = hidden.shape[1] // max(rows, 1)
        if rows * columns != hidden.shape[1]:
            return None
    else:
        return None
    same_ratio = abs(rows * width - columns * height) <= max(height, width)  # odd sizes are rounded
    return (rows, columns) if same_ratio else None
