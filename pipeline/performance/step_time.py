"""The time of a training step on this machine, before the weights are read."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn

from pipeline.performance.batch_size import forward_backward, is_out_of_memory
from pipeline.performance.device import DTYPES, free_memory, synchronize
from pipeline.performance.flops import training_flops
from pipeline.performance.machine import best_attention
from pipeline.performance.matmul import matmul_rate

BYTES_PER_WEIGHT = 16  # an fp32 weight, its gradient, and the two moments of AdamW
EXPECTED_MFU = 0.5  # fraction of the matmul rate that a step of a large network reaches (tests/benchmarks/README.md)

_MIN_BATCH, _MAX_BATCH = 4, 32
_STEP_SECONDS = 1.0  # estimate for which the batch is chosen
_MAX_STEP_SECONDS = 5.0  # estimate above which no step is measured
_MAX_SECONDS = 2.0  # of the measured steps, unless the fewest take longer
_MIN_STEPS, _MAX_STEPS = 3, 20


def expected_image_seconds(
    build: Callable[[], Any], shapes: nn.Module, size: tuple[int, int], *, device: torch.device, precision: str
) -> float:
    """Return the expected seconds per image of training all weights with AdamW in one process.

    A few steps on random images are measured. For a network for which one takes many seconds, or that does not fit in
    memory, the time is estimated from its FLOPs and the matmul rate. That estimate was wrong by a factor of up to two
    for small networks, which reach 40% to 96% of the matmul rate.

    Args:
        build: Returns the network with random weights.
        shapes: The same network on the meta device.
        size: Height and width of the images in pixels.
        device: Device of the training.
        precision: fp32, bf16 or fp16, as in the training.
    """
    estimate = training_flops(shapes, size) / (EXPECTED_MFU * matmul_rate(device, precision))
    memory = BYTES_PER_WEIGHT * sum(weight.numel() for weight in shapes.parameters())
    batch = min(_MAX_BATCH, max(_MIN_BATCH, int(_STEP_SECONDS / estimate)))
    if batch * estimate > _MAX_STEP_SECONDS or memory > free_memory(device) / 2:
        return estimate
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
            return _measure(build, (batch, 3, *size), device, precision)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return estimate
    finally:
        clear_device_cache(garbage_collection=True)


def _measure(build: Callable[[], Any], shape: tuple[int, int, int, int], device: torch.device, precision: str) -> float:
    """Return the seconds per image of the median step. Random states are changed."""
    with device:
        network = build().train()
    if network.config._attn_implementation == "sdpa":
        network.set_attn_implementation(best_attention(device, precision))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    pixels, times = torch.randn(shape, device=device), list[float]()
    while len(times) <= _MIN_STEPS or (len(times) <= _MAX_STEPS and sum(times) < _MAX_SECONDS):
        synchronize(device)
        start = time.perf_counter()
        forward_backward(network, pixels, DTYPES[precision])
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / shape[0]  # the first step is warmup
