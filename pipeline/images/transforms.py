"""Transforms applied on the fly: image rows -> pixel values, and the collator."""

import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.arguments.images import AugmentationArguments
from pipeline.errors import PipelineError
from pipeline.images import disk_cache
from pipeline.images.augmentation import Augment, derive_seed
from pipeline.images.decode import open_image
from pipeline.images.processor import ImageProcessor, Normalize, input_size

Batch = dict[str, list[Any]]

_ROOM = 1.1  # of the shorter side at which training images are decoded, over the input's: room for the crop
_CLEARLY = 1.25  # times that shorter side: below it, a resize costs more than its pixels save


class EvalTransform:
    """Upright RGB, then exactly what the processor does: so scores are those of `transformers.pipeline`."""

    def __init__(self, processor: ImageProcessor) -> None:
        self.processor = processor

    def __call__(self, batch: Batch) -> Batch:
        """Transform columns `image`, `label`, `index` into `pixel_values` (3, height, width) fp32, and `labels`.

        Raises:
            BadImageError: If an image cannot be read.
        """
        images = [_open(row, index) for row, index in zip(batch["image"], batch["index"], strict=True)]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": list(pixels.float()), "labels": batch["label"]}


class TrainTransform(EvalTransform):
    """An augmentation whose draw is, for every image, a function of (seed, epoch, index).

    The same pixels whatever the workers, the processes, the resumes and the cache. The epoch lies in shared
    memory, because persistent workers keep their copy of this object.

    Images are decoded at a reduced size first, always in the same way: `decode_size` pixels of the shorter side, or
    up to a quarter more. By default that is 1.1 times the input's, so of a larger photograph most crops are enlarged:
    one of 8 % of the area has 0.3 of the side, and what it shows is softer than in a crop of the full photograph.
    With a larger `--decode_size` they are sharper, and the images kept take the square of it on the disk.

    Size, resampling, scale, mean and standard deviation are the processor's.
    """

    def __init__(self, processor: ImageProcessor, args: AugmentationArguments, *, seed: int) -> None:
        super().__init__(processor)
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        size = input_size(processor)
        self.size = list(size)
        self.augment: Augment | None = None  # then there is nothing of it that could be done once
        if args.augmentation == "none":
            return
        self.decode_size = round(_ROOM * min(size)) if args.decode_size is None else args.decode_size
        normalize = Normalize(processor)
        self.augment = Augment(
            args,
            interpolation=int(processor.resample),
            # 0 to the network, as a border that says nothing
            fill=(normalize.shift / normalize.scale).flatten().round().int().tolist(),
        )

    def __call__(self, batch: Batch) -> Batch:
        """Transform columns `image`, `label`, `index` into `pixel_values` (3, *size) uint8, and `labels`.

        Without an augmentation, as `EvalTransform` does.

        Raises:
            BadImageError: If an image cannot be read.
        """
        if self.augment is None:
            return super().__call__(batch)
        epoch, pixels = int(self.epoch), []
        for row, index in zip(batch["image"], batch["index"], strict=True):
            image = (
                disk_cache.read(row)
                if disk_cache.is_cached(row)
                else disk_cache.as_tensor(self.decode(row, index)).permute(2, 0, 1)
            )
            pixels.append(self.augment(image, derive_seed(self.seed, epoch, index), self.size))
        return {"pixel_values": pixels, "labels": batch["label"]}

    @property
    def work(self) -> str:
        """Names what `decode` does: where that is the same, so are its pixels."""
        return f"shorter side {self.decode_size}"

    def decode(self, row: dict[str, Any], index: int) -> disk_cache.Pixels:
        """Do for one image what is the same in every epoch: (height, width, 3) uint8, of any size.

        Raises:
            BadImageError: If the image cannot be read.
        """
        return np.asarray(shrink(_open(row, index, at_least=self.decode_size or None), self.decode_size))


def shrink(image: Image, shorter_side: int) -> Image:
    """Resize an image that is clearly larger to this shorter side in pixels; 0 leaves any as it is."""
    shorter = min(image.size)
    if not shorter_side or shorter <= _CLEARLY * shorter_side:
        return image
    width, height = (round(side * shorter_side / shorter) for side in image.size)
    return image.resize((width, height), PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack rows into `pixel_values` (batch, 3, height, width), fp32 or uint8, and `labels` (batch,) int64."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.int64),
    }


def _open(row: dict[str, Any], index: int, *, at_least: int | None = None) -> Image:
    return open_image(row, name=row["path"] or f"row {index}", at_least=at_least)


logger = logging.getLogger(__name__)


def check_training_pixels(processor: ImageProcessor, *, name: str) -> None:
    """Refuse a processor that does to pixels what the training transform does not know, as to swap the channels.

    Raises:
        PipelineError: If a plain image comes out of training otherwise than out of evaluation.
    """
    content = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), (50, 100, 200)).save(content, "PNG")
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
