"""The largest batch size that fits in device memory, and the error for running out of memory."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from pipeline import distributed
from pipeline.errors import PipelineError
from pipeline.performance.device import DTYPES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingMemory:
    """What training stores on a device in addition to weights, gradients and activations.

    Attributes:
        precision: fp32, bf16 or fp16. It decides the size of the activations.
        copies: fp32 copies of each trained weight: 2 for Adam, 1 more for the gradient buckets of several processes, 1
            more for a moving average.
    """

    precision: str
    copies: int = 2


def find_batch_size(
    model: nn.Module, size: tuple[int, int], *, requested: int, device: torch.device, memory: TrainingMemory
) -> int:
    """Return the largest batch size whose training step fits in the memory of every device.

    It tries the requested size first, then divisors of it, each at most half of the previous one. Every rank tries on
    its own device, and the smallest result is returned. The caller multiplies the gradient accumulation steps, so that
    the global batch size does not change. Every rank must call this function.

    Args:
        model: Model to train. It is moved to the device. Everything else, including random states, is restored.
        size: Height and width of the images in pixels.
        requested: Requested batch size per device.
        device: Device of this rank.
        memory: What training stores in addition.

    Raises:
        PipelineError: On every rank, if a single image does not fit.
    """
    with distributed.fail_together():
        found = _largest_that_fits(model.to(device), size, requested, device, memory)
    fitting = min(distributed.all_gather(found, same={"the per-device batch size": requested}))
    if fitting < requested:
        logger.info(
            "per-device batch size %d does not fit in memory; using %d with %dx gradient accumulation",
            requested,
            fitting,
            requested // fitting,
        )
    return fitting


@contextlib.contextmanager
def out_of_memory_explained(*, global_batch: int, per_device: int, searched: bool = False) -> Iterator[None]:
    """Convert an out-of-memory error into a `PipelineError` that suggests flags.

    Args:
        global_batch: Global batch size.
        per_device: Per-device batch size.
        searched: Whether it is what `find_batch_size` found.

    Raises:
        PipelineError: If the block raised `torch.OutOfMemoryError` or a similar error of another device.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        remedies = ["--activation_checkpointing", "a smaller --image_size"]
        if per_device > 1:
            half = f"--global_batch_size {global_batch} --per_device_train_batch_size {per_device // 2}"
            remedies = [*([] if searched else ["--auto_find_batch_size"]), half, *remedies]
        raise PipelineError(
            f"training with per-device batch size {per_device} does not fit in memory: use {', or '.join(remedies)}"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _largest_that_fits(
    model: nn.Module, size: tuple[int, int], requested: int, device: torch.device, memory: TrainingMemory
) -> int:
    candidate = requested
    while not _fits(model, torch.Size((candidate, 3, *size)), device, memory):
        if candidate == 1:
            raise PipelineError(
                "a training step with a single image does not fit in memory: use --activation_checkpointing, or a "
                "smaller --image_size"
            )
        candidate = next(n for n in range(candidate // 2, 0, -1) if requested % n == 0)
    return candidate


def _fits(model: nn.Module, shape: torch.Size, device: torch.device, memory: TrainingMemory) -> bool:
    """Return whether a training step fits. It runs two passes, because gradient accumulation keeps gradients."""
    with restored(model, device):
        try:
            trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            # Stands for the memory that the optimizer allocates in its first step.
            optimizer_state = torch.empty(memory.copies, trained, device=device)
            for _ in range(2):
                forward_backward(model, torch.zeros(shape, device=device), DTYPES[memory.precision])
            del optimizer_state
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
    return True


def forward_backward(model: nn.Module, pixels: Tensor, dtype: torch.dtype) -> None:
    """Run the forward and the backward pass of a batch, without labels."""
    with torch.autocast(pixels.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits: Any = model(pixel_values=pixels).logits
    logits.float().logsumexp(dim=-1).mean().backward()


@contextlib.contextmanager
def restored(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the block in training mode. Then restore mode, buffers and random states, and free gradients and caches."""
    training, buffers = model.training, [buffer.clone() for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
            model.train()
            yield
    finally:
        model.train(training).zero_grad()
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)
        clear_device_cache(garbage_collection=True)
