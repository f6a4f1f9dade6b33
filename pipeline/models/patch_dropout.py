"""PatchDropout (arXiv:2208.07220): while it is trained, a ViT sees a random part of each image's patches.

What it costs falls with the share that is left, and it learns not to lean on single patches.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.resolution import REFUSALS, patch_size
from pipeline.performance import flops


class PatchDropout(nn.Module):
    """Tokens (batch, prefix + patches, width) -> fewer of them: the prefix, and a draw of the patches of each image.

    Draws are of torch's generator of the device. In evaluation all are left.
    """

    def __init__(self, rate: float, *, prefix: int) -> None:
        """Take the share of the patches that are dropped, and how many tokens in front of them are no patches."""
        super().__init__()
        self.rate, self.prefix = rate, prefix

    def forward(self, tokens: Tensor) -> Tensor:
        """Keep at least one patch."""
        if not self.training:
            return tokens
        count, patches, width = len(tokens), tokens.shape[1] - self.prefix, tokens.shape[2]
        kept = max(1, round(patches * (1 - self.rate)))
        places = torch.rand(count, patches, device=tokens.device).argsort(dim=1)[:, :kept] + self.prefix
        drawn = tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, width))
        return torch.cat([tokens[:, : self.prefix], drawn], dim=1)


def drop_patches(model: Any, rate: float, size: tuple[int, int]) -> None:
    """Let the network drop patches while it is trained, from behind its embeddings on, which add their positions.

    Args:
        model: Of transformers. Changed in place; its weights and their names are not.
        rate: Share of the patches that are dropped, above 0 and below 1.
        size: Height and width of its images in pixels.

    Raises:
        PipelineError: If it needs all patches in their grid, as a convolutional network or a Swin does.
    """
    refusal = PipelineError(f"--patch_drop_rate: a {model.config.model_type} needs all of its patches: leave it out")
    if (found := _find_embeddings(model, size)) is None:
        raise refusal
    name, prefix = found
    embeddings = model.get_submodule(name)
    embeddings.add_module("patch_dropout", PatchDropout(rate, prefix=prefix).train(embeddings.training))
    hook = embeddings.register_forward_hook(_drop)
    try:
        flops.training_flops(model, size)
    except REFUSALS as error:
        hook.remove()
        del embeddings.patch_dropout
        raise refusal from error


def _drop(embeddings: Any, _: Any, tokens: Tensor) -> Tensor:
    """A hook that finds what it calls in the module that it is given, which may be a copy."""
    dropped: Tensor = embeddings.patch_dropout(tokens)
    return dropped


def _find_embeddings(model: Any, size: tuple[int, int]) -> tuple[str, int] | None:
    """The outermost module that turns images into a grid of tokens, and how many tokens stand in front of the grid."""
    patch = patch_size(model.config)
    grid = (size[0] // patch) * (size[1] // patch)
    found: list[tuple[str, int]] = []

    def look(name: str, inputs: tuple[Any, ...], tokens: Any) -> None:
        if isinstance(tokens, Tensor) and tokens.ndim == 3 and inputs and inputs[0].ndim == 4 and patch > 1:
            found.append((name, tokens.shape[1] - grid))

    shadow: Any = flops.meta_copy(model).eval()
    for name, module in shadow.named_modules():
        module.register_forward_hook(lambda _, inputs, tokens, name=name: look(name, inputs, tokens))
    with torch.no_grad():
        shadow(pixel_values=torch.zeros(1, 3, *size, device="meta"))
    return next((place for place in reversed(found) if place[1] >= 0), None)
