"""Deletion and insertion on a classifier whose answer is known: the share of a bright patch that is visible."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.explanations.trust import measure_trust


def bright_patch(pixels: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of two classes: the first one is the mean of the first cell."""
    first = pixels[:, :, :4, :4].mean(dim=(1, 2, 3))
    return torch.stack([first, 1 - first], dim=1)


def test_areas_are_those_of_the_curves() -> None:
    pixels = torch.ones(3, 24, 24)
    best = np.zeros((6, 6), np.float32)
    best[0, 0] = 1
    trust, worst = measure_trust(bright_patch, pixels, [best, -best], [0, 0], random_maps=3)
    assert trust.deletion == pytest.approx(1 / 36)  # 1 at the start, 0 after 2 of 36 cells
    assert trust.insertion == pytest.approx(1 - 1 / 36)
    assert trust.trusted
    assert worst.deletion == pytest.approx(1 - 1 / 36)
    assert not worst.trusted
    assert 0 < trust.random_deletion < 1


def test_the_same_call_gives_the_same_numbers_and_each_class_its_own() -> None:
    pixels = torch.ones(3, 24, 24)
    best = np.arange(36, 0, -1, dtype=np.float32).reshape(6, 6)
    first = measure_trust(bright_patch, pixels, [best, best], [0, 1], random_maps=2)
    assert first == measure_trust(bright_patch, pixels, [best, best], [0, 1], random_maps=2)
    assert first[0].trusted
    assert not first[1].trusted
    assert first[0].deletion == pytest.approx(1 - first[1].deletion)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2)])
def test_a_map_of_few_cells_is_compared_and_a_single_cell_is_not_trusted(shape: tuple[int, int]) -> None:
    relevance = np.zeros(shape, np.float32)
    relevance[0, 0] = 1
    (trust,) = measure_trust(bright_patch, torch.ones(3, 8, 8), [relevance], [0], random_maps=2)
    assert np.isfinite([trust.deletion, trust.insertion]).all()
    if shape == (1, 1):
        assert not trust.trusted


def test_a_random_map_is_rarely_trusted() -> None:
    rng = np.random.default_rng(5)
    weights = torch.from_numpy(rng.random((3, 24, 24)).astype(np.float32))

    def classify(pixels: torch.Tensor) -> torch.Tensor:
        logits = (pixels * weights).sum(dim=(1, 2, 3)) / 40 - 10
        return torch.stack([logits, -logits], dim=1).softmax(dim=1)

    maps = [rng.random((6, 6)).astype(np.float32) for _ in range(60)]
    trusts = measure_trust(classify, torch.ones(3, 24, 24), maps, [0] * 60, random_maps=3)
    assert sum(trust.trusted for trust in trusts) < 20  # one in seven is expected
