"""How training images reach the model: one interface for images decoded on the fly, cached on disk, or streamed.

The streamed implementation is `data.streaming.StreamShard`.
"""

from typing import Any, Protocol

import datasets
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.images import disk_cache
from pipeline.images.transforms import TrainTransform


class TrainImages(Protocol):
    """The transformed training images of this rank."""

    @property
    def dataset(self) -> Any:
        """Return what the Trainer iterates over. It has a length."""

    @property
    def epoch(self) -> Tensor:
        """Return the epoch, an int64 scalar in shared memory; the caller sets it before each epoch."""

    def loader(self, *, num_workers: int, pin_memory: bool, prefetch_factor: int | None) -> DataLoader[Any] | None:
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

    def loader(self, *, num_workers: int, pin_memory: bool, prefetch_factor: int | None) -> None:
        """Return None: the Trainer builds its own loader, which shuffles, shards and resumes."""


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
