"""What the machine decides where a flag leaves it open: precision, attention, memory, data workers."""

import ctypes
import os
import sys
from typing import Literal

import torch

from pipeline import distributed


def usable_cores() -> int:
    """Cores this process may use: in a container often fewer than the machine has, which only Linux tells."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def best_precision(*, on_cpu: bool) -> Literal["fp32", "bf16", "fp16"]:
    """What training computes in: Accelerate's setting, or else what the machine does best.

    `accelerate launch` says "no" both for a wish and for its own default, so "no" does not count as a wish.
    """
    match os.environ.get("ACCELERATE_MIXED_PRECISION"):
        case "bf16" | "fp16" as wished:
            return wished
    if on_cpu:
        return "bf16" if _cpu_has_bf16() else "fp32"
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def best_attention(device: torch.device, precision: str) -> Literal["eager", "sdpa"]:
    """How training computes attention: by torch's fused kernel, whose backward pass takes longer in bf16 on a CPU."""
    return "eager" if device.type == "cpu" and precision == "bf16" else "sdpa"


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the rest of the process; does nothing where it is not glibc.

    By default it returns each large tensor to the system, and the next step gets its memory back page by page, zeroed.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def default_workers(*, on_cpu: bool) -> int:
    """Processes that prepare images: beside a GPU the cores less one, at most 8.

    On a CPU they take their time from the network: a quarter of the cores, none where there are fewer than four.
    """
    cores = usable_cores() // distributed.local_world_size()
    return min(4, cores // 4) if on_cpu else max(1, min(8, cores - 1))


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices itself; emulated, it would be slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
