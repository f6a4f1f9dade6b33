"""Datasets whose images are on a device. A data loader without workers gets complete batches from them.

The data loader samples, shards and skips rows, so the order of the images is that of every other dataset.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.images.augmentation import Augment, derive_seed
from pipeline.images.device.packed import PackedImages
from pipeline.images.device.policies import apply_operations
from pipeline.images.transforms import TrainTransform

Batch = dict[str, Tensor]


class FixedBatches(Dataset[Batch]):
    """Images that are the same in every epoch, as the input of the network."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        """Store the images.

        Args:
            pixels: (images, 3, height, width) fp32 or uint8, on the device.
            labels: (images,) int64, on the device.
        """
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return the batch of these rows: `pixel_values` and `labels`."""
        selected = _on_device(rows, self.labels.device)
        return {"pixel_values": self.pixels[selected], "labels": self.labels[selected]}


class AugmentedBatches(Dataset[Batch]):
    """Decoded images that are cropped and augmented on the device, with the random choices of `TrainTransform`."""

    def __init__(
        self, images: PackedImages, labels: Tensor, *, index: Sequence[int], transform: TrainTransform, augment: Augment
    ) -> None:
        """Store the images.

        Args:
            images: The decoded images.
            labels: (images,) int64, on the device.
            index: The number of each image, from which the seed of its augmentation is derived.
            transform: Gives the seed, the epoch and the size of the crops.
            augment: The augmentation.
        """
        self.images, self.labels, self.index = images, labels, index
        self.transform, self.augment = transform, augment
        self.fill = torch.tensor(augment.fill, dtype=torch.uint8, device=labels.device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return the batch of these rows: `pixel_values` uint8 and `labels`."""
        epoch, images, augment = int(self.transform.epoch), self.images, self.augment
        params = [
            augment.sample(
                derive_seed(self.transform.seed, epoch, self.index[row]), (images.heights[row], images.widths[row])
            )
            for row in rows
        ]
        pixels = images.crop(rows, params, self.transform.size, mode=augment.mode)
        if augment.policy is not None:
            operations = augment.sample_operations(params, self.transform.size)
            pixels = apply_operations(pixels, operations, self.fill)
        return {"pixel_values": pixels, "labels": self.labels[_on_device(rows, self.labels.device)]}


def _on_device(rows: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(rows).to(device, non_blocking=True)
