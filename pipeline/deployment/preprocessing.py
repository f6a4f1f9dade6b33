"""An image processor -> the settings of `standalone.preprocess`, which does the same without torch."""

import math
from typing import Any

import numpy as np
import PIL.Image

from pipeline.deployment import standalone
from pipeline.errors import PipelineError
from pipeline.images.depth import KEY
from pipeline.images.processor import ImageProcessor, Normalize

_FILTERS = {PIL.Image.Resampling.BILINEAR: "bilinear", PIL.Image.Resampling.BICUBIC: "bicubic"}
_SIZES = ((83, 57), (45, 131), (20, 16))
"""Of the images that the settings are tried on: wide, tall, and smaller than the input of most networks."""
_MAX_LEVELS = 2  # of 255: torch's kernels may round differently on another processor


def read_settings(processor: ImageProcessor, *, name: str) -> dict[str, Any]:
    """Return `library`, `resize`, `filter`, `crop` and `grayscale_bits`, checked on a few images.

    Args:
        processor: The image processor.
        name: Name of the model, for the message.

    Raises:
        PipelineError: If the processor does anything else.
    """
    settings = _settings_of_timm(processor) if hasattr(processor, "data_config") else _settings_of(processor)
    settings["grayscale_bits"] = getattr(processor, KEY, None)
    if settings["filter"] not in _FILTERS.values() or not _agrees(processor, settings):
        raise PipelineError(
            f"the image processor of {name} ({type(processor).__name__}) does more than resize (bilinear or bicubic), "
            "center crop, rescale and normalize, which an exported model cannot do: choose another model"
        )
    return settings


def _settings_of(processor: Any) -> dict[str, Any]:
    """Read an image processor of transformers with the torchvision backend."""
    size = {side: pixels for side, pixels in dict(processor.size).items() if pixels}
    crop = None
    if getattr(processor, "do_center_crop", False):
        crop = [processor.crop_size["height"], processor.crop_size["width"]]
    edge = size.get("shortest_edge")
    if edge is None:
        resize = [size["height"], size["width"]]
    elif (ratio := getattr(processor, "crop_pct", None)) is None:
        resize = [edge]
    elif edge < 384:  # ConvNeXt
        resize, crop = [int(edge / ratio)], [edge, edge]
    else:
        resize = [edge, edge]
    method = _FILTERS.get(PIL.Image.Resampling(processor.resample), "")
    return {"library": "torch", "resize": resize if processor.do_resize else None, "filter": method, "crop": crop}


def _settings_of_timm(processor: Any) -> dict[str, Any]:
    """Read a timm processor, which resizes with Pillow."""
    data = processor.data_config
    crop = list(data["input_size"][1:])
    resize = [math.floor(side / data["crop_pct"]) for side in crop]
    if data["crop_mode"] == "center" and len(set(resize)) == 1:
        resize = resize[:1]
    return {"library": "pillow", "resize": resize, "filter": data["interpolation"], "crop": crop}


def _agrees(processor: ImageProcessor, settings: dict[str, Any]) -> bool:
    """Return whether both give the same pixels, for noise, on which every difference shows."""
    random, normalize = np.random.default_rng(0), Normalize(processor)
    for height, width in _SIZES:
        image = PIL.Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = normalize.undo(processor(images=[image], return_tensors="pt")["pixel_values"])
        found = standalone.preprocess(image, settings)
        wanted = expected[0].permute(1, 2, 0).numpy()
        if found.shape != wanted.shape or np.max(np.abs(found.astype(int) - wanted)) > _MAX_LEVELS:
            return False
    return True
