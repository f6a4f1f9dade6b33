"""What freezing leaves as it was: weights, and the statistics of batch norms."""

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
    """One step of training as the Trainer makes it, on every weight that is trained."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(parameter_groups(model, learning_rate=0.1, weight_decay=0.0))
    model.train()
    model(pixel_values=torch.randn(4, 3, size, size), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["vit b/16", "swin", "dinov2", "resnet", "convnext", "timm vit", "timm resnet"])
def test_a_step_leaves_the_frozen_blocks_and_moves_the_others(name: str, make: Make) -> None:
    model = make(name)
    start = copy.deepcopy(model.state_dict())
    freeze_blocks(model, 1)
    step(model, FAMILIES[name].size)
    depths = block_depths(model)
    moved = differing(start, model.state_dict())
    assert not {key for key in moved & depths.keys() if depths[key] <= 1}
    assert {depths[key] for key in moved & depths.keys()} == set(range(2, max(depths.values()) + 1))


@pytest.mark.parametrize(("name", "kept"), [("resnet", "stages.0"), ("timm resnet", "layer1")])
def test_statistics_of_frozen_batch_norms_stay_and_those_above_move(name: str, kept: str, make: Make) -> None:
    model = make(name)
    start = copy.deepcopy(model.state_dict())
    freeze_blocks(model, 1)
    for _ in range(2):
        step(model, FAMILIES[name].size)
    moved = differing(start, model.state_dict())
    statistics = {key for key in start if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    stayed = statistics - moved
    frozen = {
        f"{module}.{buffer}"
        for module, norm in model.named_modules()
        if isinstance(norm, _BatchNorm) and not norm.weight.requires_grad
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert stayed == frozen
    assert any(kept in key for key in frozen)
    assert statistics & moved


def test_a_copy_of_a_network_with_frozen_statistics_is_frozen_by_itself(make: Make) -> None:
    model = make("resnet")
    freeze_blocks(model, 1)
    twin = copy.deepcopy(model).train()
    start = copy.deepcopy(twin.state_dict())
    twin(pixel_values=torch.randn(2, 3, 28, 28))
    assert not {key for key in differing(start, twin.state_dict()) if "embedder" in key or "stages.0" in key}
    assert twin.resnet.encoder.stages[1].layers[0].layer[0].normalization.training
    norm = twin.resnet.embedder.embedder.normalization
    assert norm.train() is norm  # and not the one that it was copied from


def test_freezing_says_what_is_left_to_train(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    model = make("swin")
    caplog.clear()  # of what making it said
    with caplog.at_level(logging.INFO, logger=layers.__name__):
        freeze_blocks(model, 3)
    assert trained(model) == {"swin.layernorm.weight", "swin.layernorm.bias", "classifier.weight", "classifier.bias"}
    assert caplog.messages == ["froze the lowest 3 of 3 blocks: 0.0 M of 0.0 M parameters are trained"]


def test_freezing_nothing_changes_nothing_and_more_than_there_is_is_refused(make: Make) -> None:
    model = make("timm resnet")
    freeze_blocks(model, 0)
    assert trained(model) == {name for name, _ in model.named_parameters()}
    with pytest.raises(PipelineError, match=r"--freeze_blocks 5: this TimmWrapperForImageClassification has 4 blocks"):
        freeze_blocks(model, 5)
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_what_was_frozen_before_stays_frozen(make: Make) -> None:
    model = make("dinov2")
    model.get_parameter("dinov2.layernorm.weight").requires_grad_(False)
    freeze_blocks(model, 1)
    assert "dinov2.layernorm.weight" not in trained(model)
