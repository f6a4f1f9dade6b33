"""LayerCAM equals its definition."""

from typing import Any

import pytest
import torch

from pipeline.evaluation.explanations.layercam import MIN_SIDE, LayerCam
from pipeline.evaluation.explanations.methods import find_method
from tests.evaluation.explanations.planting import new_network


@pytest.mark.parametrize(("name", "grid"), [("resnet", (8, 8)), ("convnext", (8, 8)), ("swin", (8, 8))])
def test_maps_equal_the_definition_for_each_image_alone(name: str, grid: tuple[int, int]) -> None:
    classifier = new_network(name)
    method = find_method(classifier)
    assert isinstance(method, LayerCam)
    assert method.grid == grid
    assert min(method.grid) >= MIN_SIDE
    torch.manual_seed(1)
    pixels, classes = torch.randn(3, 3, 32, 32), torch.tensor([0, 2, 1])
    maps = method.explain(pixels).relevance(classes)
    model: Any = classifier.model
    for image, number, relevance in zip(pixels, classes.tolist(), maps, strict=True):
        kept: list[torch.Tensor] = []
        handle = method.block.register_forward_hook(
            lambda _m, _a, output, kept=kept: kept.append(output[0] if isinstance(output, tuple) else output)
        )
        logits = model(pixel_values=image[None]).logits
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[0, number], kept[0])
        features = kept[0].detach()
        weighted = (gradient.clamp(min=0) if name == "resnet" else gradient)[0] * features[0]
        expected = weighted.sum(dim=0) if weighted.ndim == 3 else weighted.sum(dim=1).reshape(grid)
        torch.testing.assert_close(relevance, expected.clamp(min=0), rtol=1e-4, atol=1e-8)
