import pytest
import torch

from pipeline.performance.matmul import matmul_rate
from pipeline.performance.throughput import Speed


def test_speed_is_a_share_of_what_the_machine_multiplies() -> None:
    speed = Speed(images_per_second=100.0, flops_per_second=1e11, matmul_rate=4e11)
    assert speed.mfu == pytest.approx(0.25)
    assert str(speed) == "100 images/s, 0.1 TFLOP/s, 25% of the 0.4 that matrix products reach here"
    assert speed.figures() == {
        "images_per_second": 100.0,
        "gflops_per_image": 1.0,
        "tflops_per_second": 0.1,
        "matmul_tflops_per_second": 0.4,
        "mfu": 0.25,
    }


def test_the_machine_is_measured_once() -> None:
    first = matmul_rate(torch.device("cpu"), "fp32")
    assert 1e8 < first < 1e14
    assert matmul_rate(torch.device("cpu"), "fp32") == first
