"""The order of training images where not every one is drawn once an epoch."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler, WeightedRandomSampler

from pipeline.images.augmentation import derive_seed


class BalancedSampler(Sampler[int]):
    """As many draws an epoch as there are images, every class alike often; images of a small class come repeatedly.

    The order is a function of seed and epoch, so that a resumed epoch goes on with the images that were to come.
    """

    def __init__(self, labels: NDArray[np.int64], *, seed: int, epoch: Tensor) -> None:
        """Take the class number of each image, and the tensor in which the number of the epoch is told."""
        self.seed, self.epoch = seed, epoch
        self.weights = (1.0 / np.bincount(labels))[labels]

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, int(self.epoch), -1))  # -1: no image's draws
        return iter(WeightedRandomSampler(self.weights.tolist(), len(self), generator=generator))
