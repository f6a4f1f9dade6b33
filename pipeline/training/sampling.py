"""Class-balanced sampling of the training images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler, WeightedRandomSampler

from pipeline.images.augmentation import derive_seed


class BalancedSampler(Sampler[int]):
    """Samples images with replacement so that all classes are equally frequent.

    An epoch has as many samples as there are images. The order depends only on the seed and the epoch, so that a
    resumed epoch continues with the same images.
    """

    def __init__(self, labels: NDArray[np.int64], *, seed: int, epoch: Tensor) -> None:
        """Compute the sampling weight of each image.

        Args:
            labels: Class number of each image.
            seed: Random seed of the run.
            epoch: Tensor with the current epoch. It is read when an epoch starts.
        """
        self.seed, self.epoch = seed, epoch
        self.weights = (1.0 / np.bincount(labels))[labels]

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        # The augmentation derives its seeds from image numbers, so -1 cannot collide with one of them.
        generator = torch.Generator().manual_seed(derive_seed(self.seed, int(self.epoch), -1))
        return iter(WeightedRandomSampler(self.weights.tolist(), len(self), generator=generator))
