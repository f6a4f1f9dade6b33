"""Another resolution for a loaded network, and the proof that it takes what its processor makes."""

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
from pipeline.models.checkpoint import is_timm

logger = logging.getLogger(__name__)

REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError)
"""What the forward methods of transformers and timm raise for a size that they do not take."""


def check_image_size(config: PreTrainedConfig, image_size: int) -> None:
    """Refuse a resolution that the network cannot take, before its weights are read.

    Raises:
        PipelineError: If the size is no positive multiple of the patch size, or the network is timm's.
    """
    if is_timm(config):
        raise PipelineError("--image_size cannot be changed for a timm model: name its checkpoint for that size")
    patch = patch_size(config)
    if image_size < patch or image_size % patch:
        near = sorted({max(1, image_size // patch) * patch, max(1, -(-image_size // patch)) * patch})
        raise PipelineError(
            f"--image_size {image_size} is no multiple of the patch size {patch}: try {' or '.join(map(str, near))}"
        )


def vision_config(config: PreTrainedConfig) -> Any:
    """The part of a config that is about images: all of it, unless the model has a part for texts too."""
    return getattr(config, "vision_config", config)


def patch_size(config: PreTrainedConfig) -> int:
    """Pixels a side of what becomes one token, 1 for a network without patches."""
    patch = getattr(vision_config(config), "patch_size", None) or 1
    return patch if isinstance(patch, int) else max(patch)


def resize(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """The model for another resolution.

    The same model where its forward takes that size: a convolutional one, a Swin, which pads, and a DINOv2 or BEiT,
    which interpolate their tables at every step. Else a copy whose position table is interpolated once (bicubic),
    all else equal, as in the ViT paper, section 3.2; `from_pretrained(image_size=...)` would draw it at random.

    Raises:
        PipelineError: If it does not take that size and has no position table of a square grid either.
    """
    if _why_not(model, torch.zeros(1, 3, image_size, image_size)) is None:
        return model
    config = copy.deepcopy(model.config)
    refusal = PipelineError(f"--image_size {image_size} cannot be taken by a {config.model_type}: leave it out")
    if not hasattr(vision_config(config), "image_size"):
        raise refusal
    vision_config(config).image_size = image_size
    try:
        resized: PreTrainedModel = type(model)(config)
    except REFUSALS as error:
        raise refusal from error
    weights, wanted = model.state_dict(), resized.state_dict()
    side = image_size // patch_size(config)
    tables = [name for name in weights if weights[name].shape != wanted[name].shape]
    if not tables:
        raise refusal
    for name in tables:
        prefix = wanted[name].shape[-2] - side**2
        old_side = math.isqrt(max(0, weights[name].shape[-2] - prefix))
        if "position_embedding" not in name or prefix < 0 or prefix + old_side**2 != weights[name].shape[-2]:
            raise refusal
        weights[name] = _interpolate(weights[name], prefix, old_side, side)
        logger.info("position table interpolated: %dx%d -> %dx%d", old_side, old_side, side, side)
    resized.load_state_dict(weights, strict=True)
    return resized


def check_input(model: PreTrainedModel, processor: ImageProcessor, *, name: str) -> None:
    """Run the network once on what its processor makes of a black image, and refuse what would fail in a run.

    Raises:
        PipelineError: If the network does not take it.
    """
    pixels = processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    if reason := _why_not(model, pixels.float()):
        raise PipelineError(
            f"{name} does not take the {pixels.shape[-2]}x{pixels.shape[-1]} images that its processor makes: {reason}"
        )


@torch.no_grad()  # and not inference_mode: some networks keep a tensor of their first forward
def _why_not(model: PreTrainedModel, pixels: Tensor) -> str | None:
    """Why the network does not take such images, or None where it does."""
    try:
        model.eval()(pixel_values=pixels)
    except REFUSALS as error:
        return " ".join(str(error).split())[:150] or type(error).__name__
    return None


def _interpolate(table: Tensor, prefix: int, old_side: int, side: int) -> Tensor:
    """A table (..., prefix + old_side², hidden) for side² places; the prefix tokens have no place and stay."""
    grid = table[..., prefix:, :].reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    grid = grid.flatten(2).transpose(1, 2).reshape(*table.shape[:-2], side**2, -1)
    return torch.cat([table[..., :prefix, :], grid], dim=-2)
