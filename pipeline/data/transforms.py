"""The checkpoint's image processor -> what `set_transform` runs on the fly, the collator, what the device computes.

All are top-level picklable objects: workers are started by spawn on some systems. Images travel as uint8, and become
numbers for the network once a batch, on its device (`Normalize`).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.arguments import AugmentationArguments
from pipeline.data import cache
from pipeline.data.augmentation import Augment
from pipeline.data.images import open_image

Batch = dict[str, list[Any]]

_ROOM = 1.1  # of the shorter side at which training images are decoded, over the input's: room for the crop
_CLEARLY = 1.25  # times that shorter side: below it, a resize costs more than its pixels save


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
            image = cache.read(row) if cache.is_kept(row) else cache.as_tensor(self.decode(row, index)).permute(2, 0, 1)
            pixels.append(self.augment(image, draw_seed(self.seed, epoch, index), self.size))
        return {"pixel_values": pixels, "labels": batch["label"]}

    @property
    def work(self) -> str:
        """Names what `decode` does: where that is the same, so are its pixels."""
        return f"shorter side {self.decode_size}"

    def decode(self, row: dict[str, Any], index: int) -> cache.Pixels:
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


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """63 bits that mix the three numbers, so that neighbouring ones share nothing."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack rows into `pixel_values` (batch, 3, height, width), fp32 or uint8, and `labels` (batch,) int64."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.int64),
    }


def input_size(processor: ImageProcessor) -> tuple[int, int]:
    """Height and width in pixels of what the network gets: of what the processor really makes.

    Its attributes do not tell: each family has its own rule of resize, crop and their ratio.
    """
    pixels = processor(images=[PIL.Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    height, width = pixels.shape[-2:]
    return height, width


def _open(row: dict[str, Any], index: int, *, at_least: int | None = None) -> Image:
    return open_image(row, name=row["path"] or f"row {index}", at_least=at_least)
