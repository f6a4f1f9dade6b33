"""The matmul rate of this machine, measured: the upper limit of training throughput."""

import functools
import time

import torch

from pipeline.performance.device import DTYPES, synchronize

_SIDES = {"cpu": (1024, 1536), "cuda": (4096, 8192)}  # below, starting a product costs a share of it
_REPETITIONS = 15


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
