"""Averages against their definitions; what they do to a run is in `test_trainer`."""

from pathlib import Path

import pytest
from torch import nn
from transformers import TrainerControl, TrainerState, ViTForImageClassification

from pipeline.arguments.trainer import FineTuningArguments
from pipeline.training.averaging import MovingAverage, changing_tensors
from tests.conftest import save_vit


def step(average: MovingAverage, number: int) -> None:
    average.on_step_end(FineTuningArguments(use_cpu=True), TrainerState(global_step=number), TrainerControl())


def test_it_averages_what_is_trained_and_running_statistics() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    assert changing_tensors(network).keys() == {
        "1.weight", "1.bias", "2.weight", "2.bias", "1.running_mean", "1.running_var",
    }  # fmt: skip


def test_late_in_a_run_it_is_the_exponential_average_and_early_it_forgets_its_start() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = MovingAverage(layer, 0.9)
    nn.init.constant_(layer.weight, 1.0)
    step(average, 1)
    assert average.average["weight"].item() == pytest.approx(1 - 2 / 11)
    step(average, 1000)
    assert average.average["weight"].item() == pytest.approx(1 - 2 / 11 * 0.9)


def test_in_the_block_the_network_has_the_average_and_after_it_its_own() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = MovingAverage(layer, 0.5)
    nn.init.constant_(layer.weight, 4.0)
    step(average, 1000)
    with average.in_place():
        assert layer.weight.item() == 2
    assert layer.weight.item() == 4
    step(average, 1000)
    assert average.average["weight"].item() == 3


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of a run: all weights 0, 2 and 10."""
    folders = []
    for value in (0.0, 2.0, 10.0):
        folder = save_vit(tmp_path_factory.mktemp("checkpoint"))
        model = ViTForImageClassification.from_pretrained(folder)
        for weight in model.parameters():
            nn.init.constant_(weight, value)
        model.save_pretrained(folder)
        folders.append(folder)
    return folders
