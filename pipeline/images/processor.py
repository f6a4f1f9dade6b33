"""The image processor of a checkpoint: what it does to an image, and its input size."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)


class ImageProcessor(Protocol):
    """The part of a transformers image processor that we use. transformers sets these attributes at run time."""

    size: Any
    crop_size: Any
    resample: Any
    do_center_crop: bool
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: Sequence[float]
    image_std: Sequence[float]

    def __call__(self, images: Sequence[Image], *, return_tensors: str, **steps: bool) -> Any:
        """Transform upright RGB images into `pixel_values` (batch, 3, height, width), usually fp32."""

    def save_pretrained(self, save_directory: Path) -> Any:
        """Write preprocessor_config.json."""

    def to_dict(self) -> dict[str, Any]:
        """Return all settings."""


class Normalize:
    """Normalization of uint8 pixels with the processor's rescale factor, mean and standard deviation.

    It runs once per batch, on the device of the batch.
    """

    def __init__(self, processor: ImageProcessor) -> None:
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        statistics = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
        mean, std = (torch.tensor(list(values), dtype=torch.float64).view(3, 1, 1) for values in statistics)
        self.scale, self.shift = (factor / std).float(), (mean / std).float()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return normalized fp32 pixels for (batch, 3, height, width) uint8.

        Floating-point pixels are already normalized and are returned unchanged.
        """
        if pixels.dtype != torch.uint8:
            return pixels
        self.scale, self.shift = self.scale.to(pixels.device), self.shift.to(pixels.device)
        # In place, because on a CPU the new memory for each step would take ten times as long as the step itself.
        return pixels.float().mul_(self.scale).sub_(self.shift)

    def undo(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels for (batch, 3, height, width) normalized pixels. Both have the same shape."""
        return pixels.cpu().float().add(self.shift.cpu()).div(self.scale.cpu()).round().clamp(0, 255).byte()


def input_size(processor: ImageProcessor) -> tuple[int, int]:
    """Return height and width in pixels of the images that the processor produces.

    The size is measured, because each model family combines resize, crop and their ratio by different rules.
    """
    pixels = processor(images=[PIL.Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    height, width = pixels.shape[-2:]
    return height, width


def set_input_size(processor: ImageProcessor, image_size: int) -> None:
    """Make the processor produce squares of `image_size` pixels. A center crop keeps its ratio to the resize."""
    resize, square = processor.size, {"height": image_size, "width": image_size}
    if getattr(processor, "do_center_crop", False):
        ratio = image_size / processor.crop_size["height"]
        processor.size = {side: round(pixels * ratio) for side, pixels in dict(resize).items()}
        processor.crop_size = square
    else:
        processor.size = {"shortest_edge": image_size} if "shortest_edge" in resize else square


def ensure_one_size(processor: ImageProcessor, *, name: str) -> None:
    """Make the processor return one size for images of any shape, with a center crop if only the shorter side is fixed.

    The crop is saved with the run, so the deployed model applies it too.

    Raises:
        PipelineError: If the processor cannot return one size.
    """
    if makes_one_size(processor, name=name):
        return
    if edge := dict(processor.size).get("shortest_edge"):
        processor.do_center_crop, processor.crop_size = True, {"height": edge, "width": edge}
        logger.info("the image processor of %s keeps the aspect ratio; adding a center crop of %dx%d", name, edge, edge)
    if not makes_one_size(processor, name=name):
        raise PipelineError(
            f"the image processor of {name} returns images of different sizes: add "
            '"size": {"height": ..., "width": ...} to its preprocessor_config.json'
        )


def makes_one_size(processor: ImageProcessor, *, name: str) -> bool:
    """Return whether the processor gives a wide and a tall image the same size.

    Raises:
        PipelineError: If the processor fails, or returns patches or tokens, not images.
    """
    try:
        outputs = [processor(images=[PIL.Image.new("RGB", size)], return_tensors="pt") for size in ((60, 40), (40, 60))]
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise PipelineError(
            f"preprocessor_config.json of {name} cannot be applied to an image ({reason}): download or copy it again"
        ) from error
    shapes = [tuple(output["pixel_values"].shape) if "pixel_values" in output else () for output in outputs]
    if any(len(shape) != 4 for shape in shapes):
        raise PipelineError(f"the image processor of {name} does not return images: choose another model")
    return shapes[0] == shapes[1]
