import numpy as np
import torch

from pipeline.training.sampling import BalancedSampler

LABELS = np.repeat([0, 1, 2], [300, 30, 3])


def drawn(epoch: int, seed: int = 0) -> list[int]:
    return list(BalancedSampler(LABELS, seed=seed, epoch=torch.tensor(epoch)))


def test_each_class_is_drawn_alike_often() -> None:
    counts = np.bincount(LABELS[drawn(0)])
    assert counts.sum() == len(LABELS) == len(BalancedSampler(LABELS, seed=0, epoch=torch.tensor(0)))
    assert counts.min() > 80
    assert len(set(drawn(0))) > 90  # and within a class, one image as often as another


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1) != drawn(1, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_epoch_is_read_when_the_order_is_asked_for() -> None:
    epoch = torch.tensor(0)
    sampler = BalancedSampler(LABELS, seed=0, epoch=epoch)
    epoch.fill_(3)
    assert list(sampler) == drawn(3)
