import time
from typing import Any

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from pipeline.performance import flops, step_time

CPU = torch.device("cpu")
CONFIG = ViTConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32)


def expected(build: Any) -> float:
    with torch.device("meta"):
        shapes = ViTForImageClassification(CONFIG)
    return step_time.expected_image_seconds(build, shapes, (32, 32), device=CPU, precision="fp32")


def test_the_median_step_without_the_first_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 200.0, 232.0, 300.0, 332.0, 400.0, 464.0])  # steps of 100, 32, 32 and 64 seconds
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(step_time, "matmul_rate", lambda *_: 1e12)
    before = torch.random.get_rng_state()
    assert expected(lambda: ViTForImageClassification(CONFIG)) == 1.0
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("reason", ["slow", "memory", "out of memory"])
def test_a_network_that_is_too_large_is_estimated(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> Any:
        assert reason == "out of memory"
        raise torch.OutOfMemoryError

    monkeypatch.setattr(step_time, "matmul_rate", lambda *_: 1e3 if reason == "slow" else 1e12)
    monkeypatch.setattr(step_time, "free_memory", lambda _: 1000 if reason == "memory" else 10**10)
    rate = 1e3 if reason == "slow" else 1e12
    work = flops.training_flops(ViTForImageClassification(CONFIG), (32, 32))
    assert expected(build) == pytest.approx(2 * work / rate)


@pytest.mark.parametrize(("seconds_per_image", "batch"), [(1e-6, 32), (0.1, 10), (1.0, 4)])
def test_the_batch_is_smaller_if_an_image_takes_longer(
    seconds_per_image: float, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = flops.training_flops(ViTForImageClassification(CONFIG), (32, 32))
    monkeypatch.setattr(step_time, "matmul_rate", lambda *_: work / (0.5 * seconds_per_image) * (1 + 1e-9))
    shapes = []

    def build() -> ViTForImageClassification:
        network = ViTForImageClassification(CONFIG)
        network.register_forward_pre_hook(
            lambda _, __, inputs: shapes.append(inputs["pixel_values"].shape), with_kwargs=True
        )
        return network

    expected(build)
    assert {tuple(shape) for shape in shapes} == {(batch, 3, 32, 32)}


def test_an_error_of_the_network_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(step_time, "matmul_rate", lambda *_: 1e12)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        expected(build)
