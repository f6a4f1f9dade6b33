"""Patch dropout: how many and which patches are dropped, when, and which networks support it."""

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from pipeline.errors import PipelineError
from pipeline.models.patch_dropout import PatchDropout, drop_patches
from pipeline.performance.flops import forward_flops, training_flops
from tests.models.building import build
from tests.models.families import FAMILIES, save

TOKENS = torch.arange(2 * 10).view(2, 10, 1).expand(2, 10, 3).float()


def test_prefix_tokens_and_some_patches_remain_unchanged() -> None:
    torch.manual_seed(0)
    drop = PatchDropout(0.5, num_prefix_tokens=2)
    for _ in range(20):
        remaining = drop(TOKENS)
        assert remaining.shape == (2, 2 + 4, 3)
        assert torch.equal(remaining[:, :2], TOKENS[:, :2])
        for image, original in zip(remaining, TOKENS, strict=True):
            numbers = image[:, 0].tolist()
            assert len(set(numbers)) == 6
            assert set(numbers) <= set(original[:, 0].tolist())
            assert torch.equal(image, image[:, :1].expand(-1, 3))


def test_patches_are_sampled_uniformly_and_separately_for_each_image() -> None:
    torch.manual_seed(0)
    drop, counts, same_patches = PatchDropout(0.75, num_prefix_tokens=2), torch.zeros(20), 0
    for _ in range(400):
        remaining = drop(TOKENS)[:, 2:, 0].long()
        counts += torch.bincount(remaining.flatten(), minlength=20)
        same_patches += set((remaining[0] - 2).tolist()) == set((remaining[1] - 12).tolist())
    frequencies = counts.view(2, 10)[:, 2:] / 400
    assert torch.allclose(frequencies, torch.tensor(0.25), atol=0.1)
    assert same_patches < 40


def test_at_least_one_patch_remains_and_evaluation_uses_all() -> None:
    assert PatchDropout(0.99, num_prefix_tokens=1)(TOKENS).shape == (2, 2, 3)
    assert PatchDropout(0.5, num_prefix_tokens=1).eval()(TOKENS) is TOKENS


def test_a_network_trains_on_fewer_patches_and_its_evaluation_does_not_change() -> None:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2)).eval()
    pixels, names = torch.randn(2, 3, 224, 224), set(model.state_dict())
    before, forward, training = (
        model(pixels).logits,
        forward_flops(model, (224, 224)),
        training_flops(model, (224, 224)),
    )
    drop_patches(model, 0.5, (224, 224))
    assert torch.equal(model(pixels).logits, before)
    assert set(model.state_dict()) == names
    token_counts = []
    model.vit.layers[0].register_forward_pre_hook(lambda _, inputs: token_counts.append(inputs[0].shape[1]))
    model.train()
    first, second = model(pixels).logits, model(pixels).logits
    assert token_counts == [1 + 98] * 2
    assert not torch.equal(first, second)
    assert forward_flops(model, (224, 224)) == forward
    assert training_flops(model, (224, 224)) < 0.6 * training


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_that_needs_its_grid_is_rejected_and_not_changed(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    model, size = build(tmp_path), (FAMILIES[name].size,) * 2
    supported = name.split()[0] in {"vit", "deit", "dinov2", "siglip", "clip", "aimv2", "radio", "tipsv2", "pixio"}
    if supported:
        drop_patches(model, 0.5, size)
    else:
        with pytest.raises(PipelineError, match=r"^--patch_drop_rate does not support \w+, which needs all patches"):
            drop_patches(model, 0.5, size)
    assert any(isinstance(module, PatchDropout) for module in model.modules()) == supported
    assert training_flops(model, size) > 0
