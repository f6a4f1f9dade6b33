"""Change the input resolution of a network, and check that a network supports the images of its image processor."""

import copy
import logging
import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.images.processor import ImageProcessor
from pipeline.models.checkpoint import family, is_timm

logger = logging.getLogger(__name__)

UNSUPPORTED_INPUT_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError)
"""What the forward methods of transformers and timm raise for an input that they do not support."""


def check_image_size(config: PreTrainedConfig, image_size: int) -> None:
    """Raise an error for a resolution that the network does not support, before its weights are loaded.

    Raises:
        PipelineError: If the size is not a positive multiple of the patch size, or if it is a timm model.
    """
    if is_timm(config):
        raise PipelineError(
            f"--image_size {image_size} is not supported for a timm model: use a timm checkpoint of that resolution, "
            "or remove --image_size"
        )
    patch = patch_size(config)
    if image_size < patch or image_size % patch:
        nearest = sorted({max(1, image_size // patch) * patch, max(1, -(-image_size // patch)) * patch})
        raise PipelineError(
            f"--image_size {image_size} is not a multiple of the patch size {patch}: "
            f"use {' or '.join(map(str, nearest))}"
        )


def vision_config(config: PreTrainedConfig) -> Any:
    """Return the vision part of a config: `vision_config` if the model also has a text part, else the config itself."""
    return getattr(config, "vision_config", config)


def patch_size(config: PreTrainedConfig) -> int:
    """Return the patch size in pixels, or 1 for a network without patches."""
    patch = getattr(vision_config(config), "patch_size", None) or 1
    return patch if isinstance(patch, int) else max(patch)


def resize(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """Return the model for another input resolution.

    Some networks support the size without a change, and then the same model is returned: convolutional networks,
    Swin, which pads its input, and DINOv2 and BEiT, which interpolate their position embeddings in every forward.
    For all other networks, the result is a copy. Its position embeddings are interpolated once (bicubic), as in
    section 3.2 of the ViT paper, and all other weights are equal. `from_pretrained(image_size=...)` would initialize
    the position embeddings at random.

    Raises:
        PipelineError: If the network does not support the size and does not have position embeddings of a square grid.
    """
    if _forward_error(model, torch.zeros(1, 3, image_size, image_size)) is None:
        return model
    config = copy.deepcopy(model.config)
    unsupported = PipelineError(f"--image_size {image_size} is not supported by {family(config)}: remove --image_size")
    if not hasattr(vision_config(config), "image_size"):
        raise unsupported
    vision_config(config).image_size = image_size
    try:
        resized: PreTrainedModel = type(model)(config)
    except UNSUPPORTED_INPUT_ERRORS as error:
        raise unsupported from error
    weights, new_weights = model.state_dict(), resized.state_dict()
    grid = image_size // patch_size(config)
    changed = [name for name in weights if weights[name].shape != new_weights[name].shape]
    if not changed:
        raise unsupported
    for name in changed:
        tokens = weights[name].shape[-2]
        num_prefix_tokens = new_weights[name].shape[-2] - grid**2
        old_grid = math.isqrt(max(0, tokens - num_prefix_tokens))
        if "position_embedding" not in name or num_prefix_tokens < 0 or num_prefix_tokens + old_grid**2 != tokens:
            raise unsupported
        weights[name] = _interpolate(weights[name], num_prefix_tokens, old_grid, grid)
        logger.info("interpolated the position embeddings from %dx%d to %dx%d", old_grid, old_grid, grid, grid)
    resized.load_state_dict(weights, strict=True)
    return resized


def check_input(model: PreTrainedModel, processor: ImageProcessor, *, name: str) -> None:
    """Run the network once on a black image from its processor, so that a mismatch is an error before the run.

    Args:
        model: It is set to evaluation mode.
        processor: Image processor of the model.
        name: Name of the model as the user gave it, for the message.

    Raises:
        PipelineError: If the network does not support the images of the processor.
    """
    pixels = processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    if reason := _forward_error(model, pixels.float()):
        raise PipelineError(
            f"{name} does not support the {pixels.shape[-2]}x{pixels.shape[-1]} images that its image processor makes "
            f"({reason}): correct its preprocessor_config.json or use another model"
        )


@torch.no_grad()  # Inference mode would not work here, because some networks store a tensor of their first forward.
def _forward_error(model: PreTrainedModel, pixels: Tensor) -> str | None:
    """Return the error of a forward with these pixels, as one line, or None if it succeeds."""
    try:
        model.eval()(pixel_values=pixels)
    except UNSUPPORTED_INPUT_ERRORS as error:
        return " ".join(str(error).split())[:150] or type(error).__name__
    return None


def _interpolate(embeddings: Tensor, num_prefix_tokens: int, old_grid: int, new_grid: int) -> Tensor:
    """Interpolate position embeddings to another grid.

    Args:
        embeddings: Shape (..., num_prefix_tokens + old_grid², hidden size).
        num_prefix_tokens: Number of tokens before the patches. They have no position in the grid and do not change.
        old_grid: Patches per side of the given embeddings.
        new_grid: Patches per side of the result.

    Returns:
        Shape (..., num_prefix_tokens + new_grid², hidden size).
    """
    grid = embeddings[..., num_prefix_tokens:, :].reshape(1, old_grid, old_grid, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(new_grid, new_grid), mode="bicubic", align_corners=False)
    grid = grid.flatten(2).transpose(1, 2).reshape(*embeddings.shape[:-2], new_grid**2, -1)
    return torch.cat([embeddings[..., :num_prefix_tokens, :], grid], dim=-2)
