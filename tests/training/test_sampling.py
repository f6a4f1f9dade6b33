"""The balanced sampler: equal class frequencies, and an order that depends only on seed and epoch."""

import numpy as np
import torch

from pipeline.training.sampling import BalancedSampler

LABELS = np.repeat([0, 1, 2], [300, 30, 3])


def sample(epoch: int, seed: int = 0) -> list[int]:
    return list(BalancedSampler(LABELS, seed=seed, epoch=torch.tensor(epoch)))


def test_all_classes_are_equally_frequent() -> None:
    counts = np.bincount(LABELS[sample(0)])
    assert counts.sum() == len(LABELS) == len(BalancedSampler(LABELS, seed=0, epoch=torch.tensor(0)))
    assert min(counts.tolist()) > 80
    assert len(set(sample(0))) > 90  # Within a class, all images are equally frequent.


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1) != sample(1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_epoch_is_read_when_the_iteration_starts() -> None:
    epoch = torch.tensor(0)
    sampler = BalancedSampler(LABELS, seed=0, epoch=epoch)
    epoch.fill_(3)
    assert list(sampler) == sample(3)
