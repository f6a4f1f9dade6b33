"""The measured matmul rate of this machine, an upper limit of the training throughput."""

import functools
import time

import torch

from pipeline.performance.device import DTYPES, synchronize

_MATRIX_SIZES = {"cpu": (1024, 1536), "cuda": (4096, 8192)}  # The launch overhead dominates for smaller matrices.
_REPETITIONS = 15


@functools.cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """Return the FLOPs per second of large matrix products in one process: the best of several sizes.

    It is measured once per process, which takes at most one second on two cores and less on a GPU.

    Args:
        device: Device of the training.
        precision: fp32, bf16 or fp16, as in the training.
    """
    sizes = _MATRIX_SIZES.get(device.type, _MATRIX_SIZES["cuda"])
    return max(2 * size**3 / _fastest_seconds(size, device, DTYPES[precision]) for size in sizes)


def _fastest_seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the shortest of several times, in seconds, for one product of two square matrices."""
    generator = torch.Generator(device).manual_seed(0)  # Use random matrices: GPUs multiply constant ones faster.
    a, b = (torch.randn(size, size, generator=generator, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    times = []
    for _ in range(1 + _REPETITIONS):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])  # The first product is warmup.
