"""PatchDropout (arXiv:2208.07220): drop a random part of the patches of each training image.

The cost of a training step falls with the number of patches, and the network learns not to depend on single patches.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.checkpoint import family
from pipeline.models.resolution import UNSUPPORTED_INPUT_ERRORS, patch_size
from pipeline.performance import flops

# Layers that rotate queries and keys by the position of their token, which is wrong once patches before it are dropped.
_ROTARY = re.compile("rope|rotary", re.IGNORECASE)


class PatchDropout(nn.Module):
    """Layer that drops randomly sampled patches of each image in training. Evaluation uses all patches.

    The patches are sampled from torch's random generator of the device.
    """

    def __init__(self, rate: float, *, num_prefix_tokens: int) -> None:
        """Set the dropout rate.

        Args:
            rate: Fraction of the patches that are dropped.
            num_prefix_tokens: Number of tokens before the patches, such as the class token. They are never dropped.
        """
        super().__init__()
        self.rate, self.num_prefix_tokens = rate, num_prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Drop patches, but at least one patch of each image remains.

        Args:
            tokens: Shape (batch, prefix tokens + patches, hidden size).

        Returns:
            The prefix tokens and the remaining patches: shape (batch, prefix tokens + remaining patches, hidden size).
        """
        if not self.training:
            return tokens
        prefix = self.num_prefix_tokens
        batch, patches, width = len(tokens), tokens.shape[1] - prefix, tokens.shape[2]
        remaining = max(1, round(patches * (1 - self.rate)))
        positions = torch.rand(batch, patches, device=tokens.device).argsort(dim=1)[:, :remaining] + prefix
        sampled = tokens.gather(1, positions.unsqueeze(-1).expand(-1, -1, width))
        return torch.cat([tokens[:, :prefix], sampled], dim=1)


def drop_patches(model: Any, rate: float, size: tuple[int, int]) -> None:
    """Make the network drop patches in training, after its embeddings, which add the positions.

    Args:
        model: A model of transformers. It is changed in place, but its weights and their names are not.
        rate: Fraction of the patches that are dropped, above 0 and below 1.
        size: Height and width of the images in pixels.

    Raises:
        PipelineError: If the network needs the complete grid of patches, as a convolutional network, a Swin, and a
            network with rotary positions (DINOv3) do.
    """
    unsupported = PipelineError(
        f"--patch_drop_rate does not support {family(model.config)}, which needs all patches: remove --patch_drop_rate"
    )
    rotary = any(_ROTARY.search(type(module).__name__) for module in model.modules())
    if rotary or (found := _find_embeddings(model, size)) is None:
        raise unsupported
    name, num_prefix_tokens = found
    embeddings = model.get_submodule(name)
    dropout = PatchDropout(rate, num_prefix_tokens=num_prefix_tokens)
    embeddings.add_module("patch_dropout", dropout.train(embeddings.training))
    hook = embeddings.register_forward_hook(_drop)
    try:
        flops.training_flops(model, size)
    except UNSUPPORTED_INPUT_ERRORS as error:
        hook.remove()
        del embeddings.patch_dropout
        raise unsupported from error


def _drop(embeddings: Any, _: Any, tokens: Tensor) -> Tensor:
    """Apply the dropout layer of the module that the hook receives, so that the hook also works in a deep copy."""
    dropped: Tensor = embeddings.patch_dropout(tokens)
    return dropped


def _find_embeddings(model: Any, size: tuple[int, int]) -> tuple[str, int] | None:
    """Find the outermost module that turns images into a grid of tokens.

    Returns:
        The name of the module and the number of its prefix tokens, or None if there is no such module.
    """
    patch = patch_size(model.config)
    grid = (size[0] // patch) * (size[1] // patch)
    found: list[tuple[str, int]] = []

    def record(name: str, inputs: tuple[Any, ...], tokens: Any) -> None:
        if isinstance(tokens, Tensor) and tokens.ndim == 3 and inputs and inputs[0].ndim == 4 and patch > 1:
            found.append((name, tokens.shape[1] - grid))

    meta_model: Any = flops.meta_copy(model).eval()
    for name, module in meta_model.named_modules():
        module.register_forward_hook(lambda _, inputs, tokens, name=name: record(name, inputs, tokens))
    with torch.no_grad():
        meta_model(pixel_values=torch.zeros(1, 3, *size, device="meta"))
    # A module's hook runs after the hooks of its children, so the outermost module comes last.
    return next((candidate for candidate in reversed(found) if candidate[1] >= 0), None)
