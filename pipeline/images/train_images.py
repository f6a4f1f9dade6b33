"""How the images of a training reach the model: decoded on the fly, cached on disk, cached on the device, or streamed.

All kinds have one interface, `TrainImages`. The streamed one is `data.streaming.StreamShard`.
"""

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.arguments.images import ImageArguments, ImageCache
from pipeline.images import disk_cache
from pipeline.images.device.batches import AugmentedBatches, FixedBatches
from pipeline.images.device.cache import load_on_device, load_validation
from pipeline.images.transforms import EvalTransform, TrainTransform

logger = logging.getLogger(__name__)


class TrainImages(Protocol):
    """The transformed training images of this rank."""

    @property
    def dataset(self) -> Any:
        """Return what the Trainer iterates over. It has a length."""

    @property
    def epoch(self) -> Tensor:
        """Return the epoch, an int64 scalar in shared memory; the caller sets it before each epoch."""

    def loader(
        self, *, batch_size: int, num_workers: int, pin_memory: bool, prefetch_factor: int | None
    ) -> DataLoader[Any] | None:
        """Return the batches of this rank, or None if the Trainer builds its own loader over `dataset`."""


class MapImages:
    """Training images that can be accessed by index: decoded on the fly, or read from the disk cache."""

    def __init__(self, split: datasets.Dataset, transform: TrainTransform) -> None:
        """Attach the transform to the split.

        Args:
            split: Rows with `image` (encoded, or cached by `disk_cache`), `label` and `index`.
            transform: Turns rows into `pixel_values` and `labels` when they are accessed.
        """
        self.dataset = split.with_transform(transform)
        self.epoch = transform.epoch

    def loader(self, *, batch_size: int, num_workers: int, pin_memory: bool, prefetch_factor: int | None) -> None:
        """Return None: the Trainer builds its own loader, which shuffles, shards and resumes."""


class DeviceMapImages:
    """Training images in the memory of the device. `dataset` returns complete batches there, so it needs no workers."""

    def __init__(self, dataset: AugmentedBatches | FixedBatches, epoch: Tensor) -> None:
        self.dataset, self.epoch = dataset, epoch

    def loader(self, *, batch_size: int, num_workers: int, pin_memory: bool, prefetch_factor: int | None) -> None:
        """Return None: the Trainer builds its own loader, so the order is that of `MapImages`, also after a resume."""


@dataclass(frozen=True)
class PreparedImages:
    """The images of a training, and where they are cached.

    Attributes:
        train: The training images.
        validation: A map-style dataset for the loader of the Trainer.
        cache: Where the images are cached.
        size: Bytes of the device cache.
        labels: Labels of the training images, (images,) int64. None if they are streamed.
    """

    train: TrainImages
    validation: Any
    cache: ImageCache
    size: int = 0
    labels: NDArray[np.int64] | None = None

    @property
    def decisions(self) -> dict[str, Any]:
        """What the machine decided about the images, for `run.json`."""
        return {"image_cache": self.cache, **({"image_cache_mb": round(self.size / 1e6, 3)} if self.size else {})}


def prepare_images(
    train: datasets.Dataset,
    validation: datasets.Dataset,
    transform: TrainTransform,
    args: ImageArguments,
    *,
    device: torch.device,
    epochs: float,
) -> PreparedImages:
    """Return the images of a training, cached as `--image_cache` says. Every process of a job must call it.

    Args:
        train: Rows with `image` (`datasets.Image(decode=False)`), `label` and `index`.
        validation: Rows of the same kind.
        transform: The training transform.
        args: The flags of the cache.
        device: The training device.
        epochs: Number of times each training image is used.

    Raises:
        BadImageError: If an image cannot be read.
        PipelineError: If `--image_cache device` needs too much memory.
    """
    required = args.image_cache == "device"
    if required or (args.image_cache == "auto" and device.type != "cpu" and epochs > 1):
        found = load_on_device(train, validation, transform, device=device, required=required)
        if found is not None:
            return PreparedImages(
                DeviceMapImages(found.train, transform.epoch), found.validation, "device", size=found.size
            )
    decoded = prepare_validation(validation, transform, args, device=device, epochs=epochs)
    if args.image_cache == "none":
        logger.info("decoding train images on the fly: --image_cache is none")
        return PreparedImages(MapImages(train, transform), decoded, "none")
    images = map_images(train, transform, limit_gb=args.image_cache_gb, epochs=epochs)
    return PreparedImages(images, decoded, "disk")


def prepare_validation(
    validation: datasets.Dataset,
    transform: TrainTransform,
    args: ImageArguments,
    *,
    device: torch.device,
    epochs: float,
) -> Any:
    """Return the validation images of a training whose own images are not on the device.

    If the device is a GPU and they fit, they are stored there, so that only the first evaluation decodes them.

    Args:
        validation: Rows with `image` (`datasets.Image(decode=False)`), `label` and `index`.
        transform: The training transform.
        args: The flags of the cache.
        device: The training device.
        epochs: Number of times each training image is used.

    Raises:
        BadImageError: If an image cannot be read.
    """
    if args.image_cache != "none" and device.type != "cpu" and epochs > 1:
        found = load_validation(validation, transform, device=device)
        if found is not None:
            return found
    return validation.with_transform(EvalTransform(transform.processor))


def map_images(split: datasets.Dataset, transform: TrainTransform, *, limit_gb: float, epochs: float) -> MapImages:
    """Return the training images, with their decoded pixels cached on disk if that saves time.

    Every process of a job must call it (`disk_cache.cache_decoded`). Without augmentation nothing is cached, because
    training images are then transformed exactly as in evaluation.

    Args:
        split: Rows with `image` (`datasets.Image(decode=False)`), `label` and `index`.
        transform: The training transform.
        limit_gb: Largest size of the cache in gigabytes. 0: no cache.
        epochs: Number of times each image is used.

    Raises:
        BadImageError: If an image cannot be read.
    """
    if transform.augment is not None:
        split = disk_cache.cache_decoded(split, transform, limit_gb=limit_gb, epochs=epochs, split_name="train")
    return MapImages(split, transform)
