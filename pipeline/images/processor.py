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


class ImageProcessor(Protocol):
    """What we rely on in an image processor of transformers, which sets these attributes at run time."""

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
        """Transform upright RGB images into `pixel_values` (batch, 3, height, width), fp32 after the last step."""

    def save_pretrained(self, save_directory: Path) -> Any:
        """Write preprocessor_config.json."""

    def to_dict(self) -> dict[str, Any]:
        """Give all of its settings."""


class Normalize:
    """uint8 pixels -> what the network gets: times the processor's factor, less its mean, over its deviation.

    Once a batch, on the device that the batch is on.
    """

    def __init__(self, processor: ImageProcessor) -> None:
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        statistics = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
        mean, std = (torch.tensor(list(values), dtype=torch.float64).view(3, 1, 1) for values in statistics)
        self.scale, self.shift = (factor / std).float(), (mean / std).float()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise (batch, 3, height, width) uint8 to fp32; what is floating-point was normalised before."""
        if pixels.dtype != torch.uint8:
            return pixels
        self.scale, self.shift = self.scale.to(pixels.device), self.shift.to(pixels.device)
        # In place: on a CPU, fresh memory for each of these steps would take ten times as long as they do.
        return pixels.float().mul_(self.scale).sub_(self.shift)


def input_size(processor: ImageProcessor) -> tuple[int, int]:
    """Height and width in pixels of what the network gets: of what the processor really makes.

    Its attributes do not tell: each family has its own rule of resize, crop and their ratio.
    """
    pixels = processor(images=[PIL.Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    height, width = pixels.shape[-2:]
    return height, width


logger = logging.getLogger(__name__)


def set_input_size(processor: ImageProcessor, image_size: int) -> None:
    """Make the processor produce squares of `image_size`; where it crops, the resize keeps its ratio to the crop."""
    old, size = processor.size, {"height": image_size, "width": image_size}
    if getattr(processor, "do_center_crop", False):
        ratio = image_size / processor.crop_size["height"]
        old = {side: round(pixels * ratio) for side, pixels in dict(old).items()}
        processor.crop_size, processor.size = size, old
    else:
        processor.size = {"shortest_edge": image_size} if "shortest_edge" in old else size


def ensure_one_size(processor: ImageProcessor, *, name: str) -> None:
    """See to it that images of any shape come out alike; where only their shorter side is fixed, crop the centre.

    The crop is saved with the run, so that what is deployed does the same.

    Raises:
        PipelineError: If they cannot be made so.
    """
    if makes_one_size(processor, name=name):
        return
    if edge := dict(processor.size).get("shortest_edge"):
        processor.do_center_crop, processor.crop_size = True, {"height": edge, "width": edge}
        logger.info("%s: its processor keeps the shape of an image, so the centre is cropped: %dx%d", name, edge, edge)
    if not makes_one_size(processor, name=name):
        raise PipelineError(
            f"the image processor of {name} makes images of several sizes: give its preprocessor_config.json a "
            '"size" with height and width'
        )


def makes_one_size(processor: ImageProcessor, *, name: str) -> bool:
    """Whether a wide and a tall image come out in one size.

    Raises:
        PipelineError: If what comes out are no images, but patches or tokens.
    """
    outputs = [processor(images=[PIL.Image.new("RGB", size)], return_tensors="pt") for size in ((60, 40), (40, 60))]
    shapes = [tuple(output["pixel_values"].shape) if "pixel_values" in output else () for output in outputs]
    if any(len(shape) != 4 for shape in shapes):
        raise PipelineError(f"the image processor of {name} makes no images of pixels: name another model")
    return shapes[0] == shapes[1]
