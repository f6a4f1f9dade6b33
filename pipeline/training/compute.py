"""How fast training is, beside how fast this machine multiplies matrices."""

import functools
import time
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_SIDES = {"cpu": (1024, 1536), "cuda": (4096, 8192)}  # below, starting a product costs a share of it
_REPETITIONS = 15


@dataclass(frozen=True)
class Speed:
    """Images a second of training, and what they make of the processors.

    Attributes:
        images_per_second: Over all processes.
        flops_per_second: Of the matrix products of their forward and backward pass (`models.flops.training_flops`).
        matmul_rate: Operations a second that large matrix products reach, over all processes.
    """

    images_per_second: float
    flops_per_second: float
    matmul_rate: float

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: the rate as a share of what large matrix products reach on this machine."""
        return self.flops_per_second / self.matmul_rate

    def __str__(self) -> str:
        """A phrase for a line of the log."""
        return (
            f"{self.images_per_second:.4g} images/s, {self.flops_per_second / 1e12:.3g} TFLOP/s, {self.mfu:.0%} of the "
            f"{self.matmul_rate / 1e12:.3g} that matrix products reach here"
        )

    def figures(self) -> dict[str, float]:
        """What goes into `run.json`."""
        return {
            "images_per_second": round(self.images_per_second, 2),
            "gflops_per_image": round(self.flops_per_second / self.images_per_second / 1e9, 3),
            "tflops_per_second": round(self.flops_per_second / 1e12, 4),
            "matmul_tflops_per_second": round(self.matmul_rate / 1e12, 4),
            "mfu": round(self.mfu, 4),
        }


@functools.cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """Operations a second of large matrix products of one process, measured once: the fastest of several.

    It takes a second at most on two cores, and a part of it on a GPU.

    Args:
        device: What training computes on.
        precision: fp32, bf16 or fp16: what training computes in.
    """
    sides = _SIDES.get(device.type, _SIDES["cuda"])
    return max(2 * side**3 / _seconds(side, device, DTYPES[precision]) for side in sides)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued; the processor queues nothing."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _seconds(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """Time of one product of two square matrices, where nothing else disturbed it."""
    draw = torch.Generator(device).manual_seed(0)  # a GPU multiplies ones faster than numbers that differ
    a, b = (torch.randn(side, side, generator=draw, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    times = []
    for _ in range(1 + _REPETITIONS):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first one chooses a kernel and packs
