"""The measured matmul rate of this machine, an upper limit of the training throughput."""

import functools
import time

import torch

from pipeline.performance.device import DTYPES, synchronize

_MATRIX_SIZES = {"cpu": (1024, 1536), "cuda": (4096, 8192)}  # The launch overhead dominates for smaller matrices.
_REPETITIONS = 15
_MAX_SECONDS = 1.0  # of the repetitions of one size; a CPU without bf16 instructions takes minutes for all of them


@functools.cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """Return the FLOPs per second of large matrix products in one process: the best of several sizes.

    It is measured once per process, which takes about one second on two cores and less on a GPU. If a product of the
    first size takes seconds, it is the only one.

    Args:
        device: Device of the training.
        precision: fp32, bf16 or fp16, as in the training.
    """
    sizes = _MATRIX_SIZES.get(device.type, _MATRIX_SIZES["cuda"])
    rates: list[float] = []
    for size in sizes:
        seconds = _fastest_seconds(size, device, DTYPES[precision])
        rates.append(2 * size**3 / seconds)
        if seconds > _MAX_SECONDS:
            break
    return max(rates)


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
        if sum(times) > _MAX_SECONDS:
            break
    return min(times[1:] or times)  # The first product is warmup.
