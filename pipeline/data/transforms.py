"""The checkpoint's image processor -> what `set_transform` runs on the fly, and the collator.

All are top-level picklable objects: workers are started by spawn on some systems.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from pipeline.data.augmentation import BASIC, Augmentation
from pipeline.data.images import open_image

Batch = dict[str, list[Any]]


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

    def __call__(self, images: Sequence[Image], *, return_tensors: str) -> Any:
        """Transform upright RGB images into `pixel_values` (batch, 3, height, width) fp32."""

    def save_pretrained(self, save_directory: Path) -> Any:
        """Write preprocessor_config.json."""


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

    The same pixels whatever the workers, the processes and the resumes: the global generator is forked and seeded
    for each image. The epoch lies in shared memory, because persistent workers keep their copy of this object.

    Size, resampling, scale, mean and standard deviation are the processor's.
    """

    def __init__(self, processor: ImageProcessor, augmentation: Augmentation = BASIC, *, seed: int) -> None:
        super().__init__(processor)
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.factor = processor.rescale_factor if processor.do_rescale else 1.0
        self.mean = list(processor.image_mean) if processor.do_normalize else [0.0] * 3
        self.std = list(processor.image_std) if processor.do_normalize else [1.0] * 3
        self.augment = augmentation.compose(
            input_size(processor),
            interpolation=int(processor.resample),
            fill=[round(mean / self.factor) for mean in self.mean],  # 0 to the network, as a border that says nothing
        )

    def __call__(self, batch: Batch) -> Batch:
        """Transform columns `image`, `label`, `index` into `pixel_values` (3, height, width) fp32, and `labels`.

        Raises:
            BadImageError: If an image cannot be read.
        """
        if self.augment is None:
            return super().__call__(batch)
        rows = zip(batch["image"], batch["index"], strict=True)
        return {"pixel_values": [self._one(row, index, self.augment) for row, index in rows], "labels": batch["label"]}

    def _one(self, row: dict[str, Any], index: int, augment: Callable[[Tensor], Tensor]) -> Tensor:
        image = functional.pil_to_tensor(_open(row, index))
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the generators of the GPUs too, and nothing restores those.
            torch.default_generator.manual_seed(draw_seed(self.seed, int(self.epoch), index))
            image = augment(image)
        normal: Tensor = functional.normalize(image.float() * self.factor, self.mean, self.std)
        return normal


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """63 bits that mix the three numbers, so that neighbouring ones share nothing."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack rows into `pixel_values` (batch, 3, height, width) fp32 and `labels` (batch,) int64."""
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


def _open(row: dict[str, Any], index: int) -> Image:
    return open_image(row, name=row["path"] or f"row {index}")
