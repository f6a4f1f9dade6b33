"""Defaults that depend on the machine: precision, attention implementation, memory allocation, data workers."""

import ctypes
import os
import sys
from typing import Literal

import torch

from pipeline import distributed

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # Constants from glibc's malloc.h.


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use.

    In a container this can be fewer cores than the machine has. Only Linux reports it.
    """
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def best_precision(*, on_cpu: bool) -> Literal["fp32", "bf16", "fp16"]:
    """Return the precision of training: the setting of Accelerate, or the best one that the machine supports.

    `accelerate launch` sets "no" both if the user asks for it and by default, so "no" is ignored.
    """
    match os.environ.get("ACCELERATE_MIXED_PRECISION"):
        case "bf16" | "fp16" as requested:
            return requested
    if on_cpu:
        return "bf16" if _cpu_has_bf16() else "fp32"
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def best_attention(device: torch.device, precision: str) -> Literal["eager", "sdpa"]:
    """Return the fastest attention implementation for training.

    This is SDPA except for bf16 on a CPU, where its backward pass is slower than that of eager attention.
    """
    return "eager" if device.type == "cpu" and precision == "bf16" else "sdpa"


def keep_freed_memory() -> None:
    """Make glibc's allocator reuse freed memory for the rest of the process. Does nothing without glibc.

    By default, glibc returns the memory of each large tensor to the system. The next step then waits for page faults.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def default_workers(*, on_cpu: bool) -> int:
    """Return the number of data loader workers per process.

    With a GPU, this is the number of cores minus one, at least 1 and at most 8. On a CPU, the model needs the same
    cores, so this is a quarter of the cores, at most 4. It is 0 if there are fewer than four cores.
    """
    cores = usable_cores() // distributed.local_world_size()
    return min(4, cores // 4) if on_cpu else max(1, min(8, cores - 1))


def _cpu_has_bf16() -> bool:
    """Return whether the CPU has native bf16 matrix instructions (emulated bf16 is slower than fp32)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
