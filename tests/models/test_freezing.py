"""Freezing blocks keeps their weights and the running statistics of their batch norms."""

import copy
import logging

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models import layers
from pipeline.models.layers import block_depths, freeze_blocks, parameter_groups
from tests.models.building import differing
from tests.models.conftest import Make
from tests.models.families import FAMILIES


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def step(model: PreTrainedModel, size: int) -> None:
    """Run one training step on every weight that is trained, as the Trainer does."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(parameter_groups(model, learning_rate=0.1, weight_decay=0.0))
    model.train()
    model(pixel_values=torch.randn(4, 3, size, size), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["vit b/16", "swin", "dinov2", "resnet", "convnext", "timm vit", "timm resnet"])
def test_a_step_changes_all_blocks_but_the_frozen_ones(name: str, make: Make) -> None:
    model = make(name)
    start = copy.deepcopy(model.state_dict())
    freeze_blocks(model, 1)
    step(model, FAMILIES[name].size)
    depths = block_depths(model)
    changed = differing(start, model.state_dict())
    assert not {key for key in changed & depths.keys() if depths[key] <= 1}
    assert {depths[key] for key in changed & depths.keys()} == set(range(2, max(depths.values()) + 1))


@pytest.mark.parametrize(("name", "block"), [("resnet", "stages.0"), ("timm resnet", "layer1")])
def test_only_statistics_of_frozen_batch_norms_do_not_change(name: str, block: str, make: Make) -> None:
    model = make(name)
    start = copy.deepcopy(model.state_dict())
    freeze_blocks(model, 1)
    for _ in range(2):
        step(model, FAMILIES[name].size)
    changed = differing(start, model.state_dict())
    statistics = {key for key in start if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    frozen = {
        f"{module}.{buffer}"
        for module, norm in model.named_modules()
        if isinstance(norm, _BatchNorm) and not norm.weight.requires_grad
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert statistics - changed == frozen
    assert any(block in key for key in frozen)
    assert statistics & changed


def test_a_copy_of_a_network_with_frozen_statistics_has_its_own_frozen_layers(make: Make) -> None:
    model = make("resnet")
    freeze_blocks(model, 1)
    clone = copy.deepcopy(model).train()
    start = copy.deepcopy(clone.state_dict())
    clone(pixel_values=torch.randn(2, 3, 28, 28))
    assert not {key for key in differing(start, clone.state_dict()) if "embedder" in key or "stages.0" in key}
    assert clone.resnet.encoder.stages[1].layers[0].layer[0].normalization.training
    norm = clone.resnet.embedder.embedder.normalization
    assert norm.train() is norm  # and not the layer of the original network


def test_freezing_logs_the_number_of_trained_parameters(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    model = make("swin")
    caplog.clear()  # building the network logs too
    with caplog.at_level(logging.INFO, logger=layers.__name__):
        freeze_blocks(model, 3)
    assert trained(model) == {"swin.layernorm.weight", "swin.layernorm.bias", "classifier.weight", "classifier.bias"}
    assert caplog.messages == ["froze the first 3 of 3 blocks; training 0.0 M of 0.0 M parameters"]


def test_zero_frozen_blocks_changes_nothing_and_too_many_are_rejected(make: Make) -> None:
    model = make("timm resnet")
    freeze_blocks(model, 0)
    assert trained(model) == {name for name, _ in model.named_parameters()}
    with pytest.raises(
        PipelineError,
        match="--freeze_blocks 5 is more than the 4 blocks of TimmWrapperForImageClassification: use at most 4",
    ):
        freeze_blocks(model, 5)
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_frozen_parameters_stay_frozen(make: Make) -> None:
    model = make("dinov2")
    model.get_parameter("dinov2.layernorm.weight").requires_grad_(False)
    freeze_blocks(model, 1)
    assert "dinov2.layernorm.weight" not in trained(model)
