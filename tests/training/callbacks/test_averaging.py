"""The moving average is equal to its definition. `test_strategies` tests its effect on a run."""

import pytest
from torch import nn
from transformers import TrainerControl, TrainerState

from pipeline.arguments.trainer import FineTuningArguments
from pipeline.training.callbacks.averaging import MovingAverage, changing_tensors


def update(average: MovingAverage, step: int) -> None:
    average.on_step_end(FineTuningArguments(use_cpu=True), TrainerState(global_step=step), TrainerControl())


def test_trainable_weights_and_running_statistics_are_averaged() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert changing_tensors(model).keys() == {
        "1.weight", "1.bias", "2.weight", "2.bias", "1.running_mean", "1.running_var",
    }  # fmt: skip


def test_the_decay_is_smaller_in_early_steps() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = MovingAverage(layer, 0.9)
    nn.init.constant_(layer.weight, 1.0)
    update(average, 1)
    assert average.average["weight"].item() == pytest.approx(1 - 2 / 11)
    update(average, 1000)
    assert average.average["weight"].item() == pytest.approx(1 - 2 / 11 * 0.9)


def test_the_model_has_the_averaged_weights_only_inside_the_block() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = MovingAverage(layer, 0.5)
    nn.init.constant_(layer.weight, 4.0)
    update(average, 1000)
    with average.in_place():
        assert layer.weight.item() == 2
    assert layer.weight.item() == 4
    update(average, 1000)
    assert average.average["weight"].item() == 3
