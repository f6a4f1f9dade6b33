"""A checkpoint's image processor: read and never guessed, set to another size, and checked before a run.

What is made of images with it belongs to `pipeline.data.transforms`.
"""

import io
import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor

from pipeline.arguments import AugmentationArguments
from pipeline.data.transforms import Batch, EvalTransform, ImageProcessor, Normalize, TrainTransform
from pipeline.errors import PipelineError
from pipeline.models.checkpoint import explained

logger = logging.getLogger(__name__)


def load_processor(folder: Path, *, name: str) -> ImageProcessor:
    """The image processor that the checkpoint was trained with, torchvision backend (which is not stored, so pinned).

    Args:
        folder: With a preprocessor_config.json, or the config.json of a timm model, which says as much.
        name: Of the model, as the user knows it.

    Raises:
        PipelineError: If the checkpoint has none: its statistics are not guessed.
    """
    try:
        with explained(name):
            processor: Any = AutoImageProcessor.from_pretrained(folder, backend="torchvision", trust_remote_code=False)
    except PipelineError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        raise PipelineError(
            f"{name} has no image processor: add the preprocessor_config.json of the model that it was made from, "
            "or name a model that has one"
        ) from error
    if hasattr(processor, "data_config"):
        _describe_timm(processor)
    return processor  # type: ignore[no-any-return]


def set_input_size(processor: ImageProcessor, image_size: int) -> None:
    """Make the processor produce squares of `image_size`; where it crops, the resize keeps its ratio to the crop."""
    old, size = processor.size, {"height": image_size, "width": image_size}
    if getattr(processor, "do_center_crop", False):
        ratio = image_size / processor.crop_size["height"]
        old = {side: round(pixels * ratio) for side, pixels in dict(old).items()}
        processor.crop_size, processor.size = size, old
    else:
        processor.size = {"shortest_edge": image_size} if "shortest_edge" in old else size


def make_alike(processor: ImageProcessor, *, name: str) -> None:
    """See to it that images of any shape come out alike; where only their shorter side is fixed, crop the centre.

    The crop is saved with the run, so that what is deployed does the same.

    Raises:
        PipelineError: If they cannot be made so.
    """
    if is_alike(processor, name=name):
        return
    if edge := dict(processor.size).get("shortest_edge"):
        processor.do_center_crop, processor.crop_size = True, {"height": edge, "width": edge}
        logger.info("%s: its processor keeps the shape of an image, so the centre is cropped: %dx%d", name, edge, edge)
    if not is_alike(processor, name=name):
        raise PipelineError(
            f"the image processor of {name} makes images of several sizes: give its preprocessor_config.json a "
            '"size" with height and width'
        )


def is_alike(processor: ImageProcessor, *, name: str) -> bool:
    """Whether a wide and a tall image come out in one size.

    Raises:
        PipelineError: If what comes out are no images, but patches or tokens.
    """
    outputs = [processor(images=[Image.new("RGB", size)], return_tensors="pt") for size in ((60, 40), (40, 60))]
    shapes = [tuple(output["pixel_values"].shape) if "pixel_values" in output else () for output in outputs]
    if any(len(shape) != 4 for shape in shapes):
        raise PipelineError(f"the image processor of {name} makes no images of pixels: name another model")
    return shapes[0] == shapes[1]


def check_training_pixels(processor: ImageProcessor, *, name: str) -> None:
    """Refuse a processor that does to pixels what the training transform does not know, as to swap the channels.

    Raises:
        PipelineError: If a plain image comes out of training otherwise than out of evaluation.
    """
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (50, 100, 200)).save(content, "PNG")
    rows: Batch = {"image": [{"bytes": content.getvalue(), "path": None}], "label": [0], "index": [0]}
    seen, scored = (
        transform(rows)["pixel_values"][0]
        for transform in (TrainTransform(processor, AugmentationArguments(), seed=0), EvalTransform(processor))
    )
    seen = Normalize(processor)(seen)
    if seen.shape != scored.shape or not torch.allclose(seen, scored, atol=1e-2):
        raise PipelineError(
            f"the image processor of {name} does more than resize, crop, scale and normalise: training would see "
            "other colours than evaluation, so name another model"
        )


def _describe_timm(processor: Any) -> None:
    """Say in the names of transformers what a timm processor does; it works from its own `data_config`."""
    data = processor.data_config
    _, height, width = data["input_size"]
    processor.size = {"height": height, "width": width}
    processor.do_center_crop = False  # its own crop is part of what makes images of that size
    known = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    processor.resample = known.get(data["interpolation"], Image.Resampling.BICUBIC)  # of what torchvision can
    processor.do_rescale, processor.rescale_factor = True, 1 / 255
    processor.do_normalize = True
    processor.image_mean, processor.image_std = list(data["mean"]), list(data["std"])
