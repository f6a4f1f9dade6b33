"""Patches that a ViT does not see: how many, which, when, and which networks can do without."""

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


def test_the_prefix_and_a_draw_of_the_patches_are_left_each_with_its_own_numbers() -> None:
    torch.manual_seed(0)
    drop = PatchDropout(0.5, prefix=2)
    for _ in range(20):
        left = drop(TOKENS)
        assert left.shape == (2, 2 + 4, 3)
        assert torch.equal(left[:, :2], TOKENS[:, :2])
        for image, all_of_it in zip(left, TOKENS, strict=True):
            numbers = image[:, 0].tolist()
            assert len(set(numbers)) == 6
            assert set(numbers) <= set(all_of_it[:, 0].tolist())
            assert torch.equal(image, image[:, :1].expand(-1, 3))


def test_every_patch_has_its_turn_and_each_image_its_own_draw() -> None:
    torch.manual_seed(0)
    drop, seen, alike = PatchDropout(0.75, prefix=2), torch.zeros(20), 0
    for _ in range(400):
        left = drop(TOKENS)[:, 2:, 0].long()
        seen += torch.bincount(left.flatten(), minlength=20)
        alike += set((left[0] - 2).tolist()) == set((left[1] - 12).tolist())
    patches = seen.view(2, 10)[:, 2:] / 400
    assert torch.allclose(patches, torch.tensor(0.25), atol=0.1)
    assert alike < 40


def test_one_patch_is_always_left_and_evaluation_sees_all() -> None:
    assert PatchDropout(0.99, prefix=1)(TOKENS).shape == (2, 2, 3)
    assert PatchDropout(0.5, prefix=1).eval()(TOKENS) is TOKENS


def test_a_network_trains_on_fewer_patches_and_answers_as_before() -> None:
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
    seen = []
    model.vit.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    model.train()
    first, second = model(pixels).logits, model(pixels).logits
    assert seen == [1 + 98] * 2
    assert not torch.equal(first, second)
    assert forward_flops(model, (224, 224)) == forward
    assert training_flops(model, (224, 224)) < 0.6 * training


@pytest.mark.parametrize("name", FAMILIES)
def test_what_needs_its_grid_is_refused_and_left_as_it_was(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    model, size = build(tmp_path), (FAMILIES[name].size,) * 2
    takes = name.split()[0] in {"vit", "deit", "dinov2", "siglip", "clip"}
    if takes:
        drop_patches(model, 0.5, size)
    else:
        with pytest.raises(PipelineError, match=r"^--patch_drop_rate: a \w+ needs all of its patches"):
            drop_patches(model, 0.5, size)
    assert any(isinstance(module, PatchDropout) for module in model.modules()) == takes
    assert training_flops(model, size) > 0
