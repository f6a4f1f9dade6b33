"""What the machine decides where a flag leaves it open: precision, attention, processes that prepare images."""

import os
from typing import Literal

import torch

from pipeline import processes, runs


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


def best_attention(device: torch.device) -> Literal["eager", "sdpa"]:
    """How training computes attention: on a CPU, the backward pass of torch's fused one takes longer (torch 2.15)."""
    return "eager" if device.type == "cpu" else "sdpa"


def default_workers(*, on_cpu: bool) -> int:
    """Processes that prepare images: beside a GPU the cores less one, at most 8.

    On a CPU they take their time from the network: a quarter of the cores, none where there are fewer than four.
    """
    cores = runs.usable_cores() // processes.processes_here()
    return min(4, cores // 4) if on_cpu else max(1, min(8, cores - 1))


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices itself; emulated, it would be slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
