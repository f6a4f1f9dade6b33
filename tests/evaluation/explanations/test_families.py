"""A planted patch decides the class, and the relevance map of every family finds it."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.explanations.layercam import LayerCam
from pipeline.evaluation.explanations.legrad import LeGrad
from pipeline.evaluation.explanations.methods import find_method
from pipeline.evaluation.explanations.trust import measure_trust
from tests.evaluation.explanations.planting import (
    CLASSES,
    LEGRAD,
    NETWORKS,
    PATCH,
    SIDE,
    new_network,
    planted,
    train_on_planted,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_finds_the_patch_that_decides(name: str) -> None:
    classifier = new_network(name)
    train_on_planted(classifier.model)
    pixels, labels, places = planted(48, seed=2)
    method = find_method(classifier)
    assert isinstance(method, LeGrad if name in LEGRAD else LayerCam)
    with torch.no_grad():  # as in the inference loop
        explained = method.explain(pixels)
        maps = explained.relevance(labels).numpy()
        other = explained.relevance((labels + 1) % CLASSES).numpy()
    correct = (explained.logits.argmax(1) == labels).numpy()
    assert correct.mean() > 0.9
    assert maps.shape == (48, *method.grid)
    assert (maps >= 0).all()
    cells = np.stack(np.unravel_index(maps.reshape(48, -1).argmax(axis=1), method.grid), axis=1)
    cells_per_patch = PATCH * method.grid[0] // SIDE
    expected = 0.7 if name == "convnext" else 0.9  # its kernels of 7 x 7 cells span most of the 8 x 8 cells
    near = 0 if name in LEGRAD else 1  # a convolution sees the neighbors of a cell
    first, last = places * cells_per_patch - near, (places + 1) * cells_per_patch - 1 + near
    inside = np.all((first <= cells) & (cells <= last), axis=1)
    assert np.asarray(inside)[correct].mean() > expected
    assert not np.allclose(maps, other)  # class-specific

    def classify(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            probabilities: torch.Tensor = classifier.model(pixel_values=images).logits.softmax(dim=1)
        return probabilities

    trusts = [
        measure_trust(classify, pixels[i], [maps[i]], [int(labels[i])], random_maps=3)[0]
        for i in np.flatnonzero(correct)[:10]
    ]
    assert sum(trust.trusted for trust in trusts) >= 5  # one or two of ten random maps would be
