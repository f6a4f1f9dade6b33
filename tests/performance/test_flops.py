"""FLOPs compared with closed formulas."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

from pipeline.models.layers import freeze_blocks
from pipeline.models.lora import add_lora
from pipeline.performance.flops import forward_flops, training_flops
from tests.models.building import build
from tests.models.families import FAMILIES, save


def vit(**changes: Any) -> ViTForImageClassification:
    with torch.device("meta"):
        shape: dict[str, Any] = {"num_labels": 102, **changes}
        return ViTForImageClassification(ViTConfig(**shape))


def vit_flops(tokens: int = 197, width: int = 768, mlp: int = 3072, layers: int = 12, patch: int = 16) -> int:
    block = 2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width
    return layers * block + 2 * (tokens - 1) * 3 * patch**2 * width + 2 * width * 102


def test_the_flops_of_a_vit_match_the_formula() -> None:
    assert forward_flops(vit(), (224, 224)) == pytest.approx(vit_flops(), rel=0.002)
    small = vit(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768)
    assert forward_flops(small, (224, 224)) == pytest.approx(vit_flops(width=192, mlp=768, layers=4), rel=0.002)


def test_training_costs_three_forward_passes_and_less_with_frozen_weights() -> None:
    model = vit(num_hidden_layers=4)
    forward, all_trained = forward_flops(model, (224, 224)), training_flops(model, (224, 224))
    assert all_trained == pytest.approx(3 * forward, rel=0.02)
    freeze_blocks(model, 2)
    assert training_flops(model, (224, 224)) == pytest.approx(2 * forward, rel=0.05)
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    assert training_flops(model, (224, 224)) == pytest.approx(forward, rel=0.01)


def test_lora_saves_the_gradients_of_the_frozen_weights() -> None:
    model = ViTForImageClassification(ViTConfig(num_hidden_layers=2, hidden_size=96, num_attention_heads=2))
    full = training_flops(model, (224, 224))
    assert training_flops(add_lora(model, rank=2, alpha=2, dropout=0.0), (224, 224)) < 0.8 * full


def test_the_groups_of_a_depthwise_convolution_are_counted_once() -> None:
    with torch.device("meta"):
        model = ConvNextForImageClassification(ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 96, 128]))
    assert training_flops(model, (64, 64)) <= 3.01 * forward_flops(model, (64, 64))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_counted_and_not_changed(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    model = build(tmp_path)
    size = (FAMILIES[name].size,) * 2
    assert 0 < forward_flops(model, size) < training_flops(model, size) <= 3.05 * forward_flops(model, size)
    assert all(weight.device.type == "cpu" and weight.grad is None for weight in model.parameters())
