"""Device cache: training and validation images in the memory of the training device, if they fit.

It reads the files of the disk cache if they exist, and otherwise decodes with all cores. It writes no files.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from pipeline import distributed
from pipeline.errors import PipelineError
from pipeline.images import disk_cache, pixel_files
from pipeline.images.device.batches import AugmentedBatches, FixedBatches
from pipeline.images.device.packed import PackedImages
from pipeline.images.pixel_files import Pixels
from pipeline.images.processor import ImageProcessor, Normalize, input_size
from pipeline.images.transforms import Batch, EvalTransform, ImageLoader, TrainTransform, collate
from pipeline.performance import machine
from pipeline.performance.device import free_memory
from pipeline.progress import progress_bar

logger = logging.getLogger(__name__)

# Fractions of the free memory. Weights, gradients, optimizer state and activations need the rest.
_MAX_FRACTION = 0.75
_MAX_FRACTION_AUTO = 0.25
_PARALLEL_FROM = 2.0  # seconds of decoding; below that, starting processes takes longer than it saves
_TOLERANCE = 1e-5  # of a normalized pixel; a level of uint8 is at least 100 times as much


@dataclass(frozen=True)
class DeviceImages:
    """The images of a training on its device.

    Attributes:
        train: The training images.
        validation: The validation images, as the image processor makes them.
        size: Bytes of both.
    """

    train: AugmentedBatches | FixedBatches
    validation: FixedBatches
    size: int


def load_on_device(
    train: datasets.Dataset,
    validation: datasets.Dataset,
    transform: TrainTransform,
    *,
    device: torch.device,
    required: bool,
) -> DeviceImages | None:
    """Return the images on the device, or None if they need too much of its memory. Every process must call it.

    Args:
        train: Rows with `image` (`datasets.Image(decode=False)`), `label` and `index`.
        validation: Rows of the same kind.
        transform: The training transform. Without augmentation, training images are stored as in evaluation.
        device: The training device.
        required: Raise an error if the images do not fit.

    Raises:
        BadImageError: If an image cannot be read.
        PipelineError: If the images do not fit and the cache is required.
    """
    as_evaluated = [validation] if transform.augment else [validation, train]
    pixels = _EvaluationPixels(transform.processor)
    fixed_size = pixels.size_of_one * sum(map(len, as_evaluated))
    seconds, size = disk_cache.estimate(train, transform) if transform.augment else (math.inf, 0)
    if not _fits(fixed_size + size, device, required=required):
        return None
    workers = _workers(seconds)
    augmented = None
    if transform.augment:
        images = _decode(train, transform, workers)
        if (exact := sum(image.size for image in images)) > size and not _fits(
            fixed_size + exact, device, required=required
        ):
            return None
        size = exact
        augmented = AugmentedBatches(
            PackedImages(images, device),
            _labels(train, device),
            index=train.with_format(None)["index"][:],
            transform=transform,
            augment=transform.augment,
        )
    fixed = [FixedBatches(pixels.read(split, device, workers), _labels(split, device)) for split in as_evaluated]
    size += fixed_size
    logger.info("device cache: %s images, %.3g MB", f"{len(train) + len(validation):,}", size / 1e6)
    return DeviceImages(augmented or fixed[-1], fixed[0], size)


def load_validation(
    validation: datasets.Dataset, transform: TrainTransform, *, device: torch.device
) -> FixedBatches | None:
    """Return the validation images on the device, without the training images, or None if they need too much memory.

    Every process must call it. The arguments are those of `load_on_device`.

    Raises:
        BadImageError: If an image cannot be read.
    """
    pixels = _EvaluationPixels(transform.processor)
    size = pixels.size_of_one * len(validation)
    if not _fits(size, device, required=False):
        return None
    seconds = disk_cache.estimate(validation, transform)[0] if transform.augment else math.inf
    images = FixedBatches(pixels.read(validation, device, _workers(seconds)), _labels(validation, device))
    logger.info("device cache: %s validation images, %.3g MB", f"{len(validation):,}", size / 1e6)
    return images


def _workers(seconds: float) -> int:
    """Return the number of processes that decode images, for which one process takes some seconds."""
    return machine.usable_cores() // distributed.local_world_size() if seconds > _PARALLEL_FROM else 0


def _fits(size: int, device: torch.device, *, required: bool) -> bool:
    """Return whether this many bytes fit on the devices of all ranks, or log why not."""
    free, fraction = free_memory(device), _MAX_FRACTION if required else _MAX_FRACTION_AUTO
    if all(distributed.all_gather(size <= fraction * free)):
        return True
    reason = f"needs {size / 1e9:.3g} GB, more than {fraction:.0%} of the free memory ({free / 1e9:.3g} GB) of {device}"
    if required:
        raise PipelineError(f"--image_cache device {reason}: use --image_cache disk, or a smaller --decode_size")
    logger.info("no device cache: it %s", reason)
    return False


def _labels(split: datasets.Dataset, device: torch.device) -> Tensor:
    return torch.tensor(split.with_format(None)["label"][:], dtype=torch.int64, device=device)


def _read(
    split: datasets.Dataset, transform: Callable[[Batch], Batch], collate_fn: Callable[[Any], Any], workers: int
) -> Iterator[Any]:
    """Yield transformed batches, in the order of the rows."""
    generator = torch.Generator()  # the default one would advance the global generator, which orders the training
    rows = split.with_transform(transform)
    loader = ImageLoader(rows, batch_size=32, collate_fn=collate_fn, num_workers=workers, generator=generator)
    yield from progress_bar(loader, desc="Loading images", unit="batch", enabled=sys.stderr.isatty())


def _decode(split: datasets.Dataset, transform: TrainTransform, workers: int) -> list[Pixels]:
    """Return the decoded images (height, width, 3), from the disk cache if it has them."""
    cached = disk_cache.find_decoded(split, transform)
    rows, workers = (split, workers) if cached is None else (cached, 0)
    return [image for batch in _read(rows, _Decode(transform), _decoded_pixels, workers) for image in batch]


class _Decode:
    """The first part of the training transform. It can be pickled, for workers that are not forked."""

    def __init__(self, transform: TrainTransform) -> None:
        self.transform = transform

    def __call__(self, batch: Batch) -> Batch:
        rows = zip(batch["image"], batch["index"], strict=True)
        return {"pixels": [self._pixels(row, index) for row, index in rows]}

    def _pixels(self, row: dict[str, Any], index: int) -> Pixels:
        if pixel_files.is_cached(row):
            return pixel_files.read(row).permute(1, 2, 0).numpy()
        return self.transform.decode(row, index)


def _decoded_pixels(rows: list[dict[str, Pixels]]) -> list[Pixels]:
    # Arrays, because workers would send each tensor through an open file.
    return [row["pixels"] for row in rows]


class _EvaluationPixels:
    """The pixels that an image processor makes, as uint8 if normalizing these gives the same network input."""

    def __init__(self, processor: ImageProcessor) -> None:
        self.processor, self.normalize = processor, Normalize(processor)
        self.shape = (3, *input_size(processor))
        self.is_uint8 = self._come_from_uint8()
        self.size_of_one = math.prod(self.shape) * (1 if self.is_uint8 else 4)

    def read(self, split: datasets.Dataset, device: torch.device, workers: int) -> Tensor:
        """Return the pixels (images, 3, height, width) of a split on the device."""
        dtype = torch.uint8 if self.is_uint8 else torch.float32
        pixels, start = torch.empty(len(split), *self.shape, dtype=dtype, device=device), 0
        for batch in _read(split, EvalTransform(self.processor), collate, workers):
            values = self.normalize.undo(batch["pixel_values"]) if self.is_uint8 else batch["pixel_values"]
            pixels[start : start + len(values)] = values
            start += len(values)
        return pixels

    def _come_from_uint8(self) -> bool:
        """Return whether the processor resizes to uint8 and normalizes as we do, measured on images of noise."""
        noise = np.random.default_rng(0)
        sides = [(height // 2 + 3, 2 * width + 3) for height, width in (self.shape[1:], self.shape[:0:-1])]
        images = [PIL.Image.fromarray(noise.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in sides]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"].float()
        return torch.allclose(self.normalize(self.normalize.undo(pixels)), pixels, rtol=0, atol=_TOLERANCE)
