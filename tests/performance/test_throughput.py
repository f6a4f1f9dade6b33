from typing import Any

import pytest
import torch

from pipeline.performance import matmul
from pipeline.performance.matmul import matmul_rate
from pipeline.performance.throughput import Clock, Interval, Speed


def test_mfu_is_the_fraction_of_the_matmul_rate() -> None:
    speed = Speed(images_per_second=100.0, flops_per_second=1e11, matmul_rate=4e11)
    assert speed.mfu == pytest.approx(0.25)
    assert str(speed) == "100 images/s, 0.1 TFLOP/s (MFU 25%: large matrix products reach 0.4 TFLOP/s)"
    assert speed.metrics() == {
        "images_per_second": 100.0,
        "gflops_per_image": 1.0,
        "tflops_per_second": 0.1,
        "matmul_tflops_per_second": 0.4,
        "mfu": 0.25,
    }


def test_an_interval_has_a_throughput_and_a_data_wait() -> None:
    interval = Interval(images=200, flops=2e11, seconds=2.0, wait_seconds=0.5)
    assert interval.speed(matmul_rate=4e11) == Speed(100.0, 1e11, 4e11)
    assert interval.data_wait == pytest.approx(0.25)
    assert Interval().speed(matmul_rate=4e11) == Speed(0.0, 0.0, 4e11)
    assert Interval().data_wait == 0.0


def test_the_clock_ignores_the_first_step_and_restarts_its_recent_interval() -> None:
    clock = Clock(seconds_before_resume=100.0)
    for images in (1, 10, 20):
        clock.data_requested()
        clock.data_received(images, flops=2.0 * images)
        clock.step_ended()
    assert (clock.total.images, clock.total.flops) == (30, 60.0)
    assert 0 < clock.total.wait_seconds < clock.total.seconds
    assert clock.take_recent().images == 30
    assert clock.take_recent() == Interval()
    assert 100 < clock.elapsed() < 110
    assert clock.phases["steps"] > clock.total.seconds  # the first step too


def test_phases_between_the_steps_add_up_also_if_they_fail() -> None:
    clock = Clock()
    with clock.timed("evaluations"):
        pass
    first = clock.phases["evaluations"]
    with pytest.raises(KeyboardInterrupt), clock.timed("evaluations"):
        raise KeyboardInterrupt
    assert clock.phases["evaluations"] > first > 0


def test_the_matmul_rate_is_measured_once() -> None:
    first = matmul_rate(torch.device("cpu"), "fp32")
    assert 1e8 < first < 1e14
    assert matmul_rate(torch.device("cpu"), "fp32") == first


def test_a_slow_machine_multiplies_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a CPU without bf16 instructions would take minutes."""
    products, multiply = [], torch.mm

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        products.append(args[0].shape)
        return multiply(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", counted)
    monkeypatch.setattr(matmul, "_MAX_SECONDS", 0.0)
    assert matmul_rate.__wrapped__(torch.device("cpu"), "fp32") > 0
    assert products == [(1024, 1024)]
