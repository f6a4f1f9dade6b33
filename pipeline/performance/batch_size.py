"""The largest batch that fits a device, tried before training; and what to type where training ran out of memory."""

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
class Load:
    """What a device bears in training beside weights, gradients and activations.

    Attributes:
        precision: fp32, bf16 or fp16: what training computes in.
        copies: Tensors in fp32 for each trained weight: 2 of Adam, 1 more for the gradients' buckets of several
            processes, 1 more for a moving average.
    """

    precision: str
    copies: int = 2


def find_batch_size(model: nn.Module, size: tuple[int, int], *, batch: int, device: torch.device, load: Load) -> int:
    """The largest divisor of the batch, at least halved each time, whose training step fits all devices.

    Each process tries on its own device, with zeros; the smallest result counts. Whoever divides the batch by
    something accumulates as many times more steps: the global batch stays. All processes must call it.

    Args:
        model: Moved to the device; otherwise left as it was, as are the random number generators.
        size: Height and width of the images in pixels.
        batch: Images a device that were asked for: the first try.
        device: Of this process.
        load: What memory holds besides.

    Raises:
        PipelineError: In every process, if not even one image fits.
    """
    with distributed.fail_together():
        found = _largest_that_fits(model.to(device), size, batch, device, load)
    fits = min(distributed.all_gather(found, same={"the batch of a device": batch}))
    if fits < batch:
        logger.info(
            "a batch of %d a device does not fit, %d do: accumulating %d times more", batch, fits, batch // fits
        )
    return fits


@contextlib.contextmanager
def out_of_memory_explained(*, global_batch: int, per_device: int) -> Iterator[None]:
    """Turn running out of memory into what to type.

    Args:
        global_batch: Images a step over all devices.
        per_device: Images a device, without those accumulated.

    Raises:
        PipelineError: In place of `torch.OutOfMemoryError`, and of its likes on other devices.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        ways = ["--activation_checkpointing", "a smaller --image_size"]
        if per_device > 1:
            half = f"--global_batch_size {global_batch} --per_device_train_batch_size {per_device // 2}"
            ways = ["--auto_find_batch_size", half, *ways]
        raise PipelineError(
            f"training a batch of {per_device} images does not fit into the memory of the device: "
            f"type {', or '.join(ways)}"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short, on whichever device."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _largest_that_fits(model: nn.Module, size: tuple[int, int], batch: int, device: torch.device, load: Load) -> int:
    tried = batch
    while not _fits(model, torch.Size((tried, 3, *size)), device, load):
        if tried == 1:
            raise PipelineError(
                "not even one image fits into the memory of the device: type --activation_checkpointing, or a smaller "
                "--image_size"
            )
        tried = next(n for n in range(tried // 2, 0, -1) if batch % n == 0)
    return tried


def _fits(model: nn.Module, shape: torch.Size, device: torch.device, load: Load) -> bool:
    """Whether two passes fit, the second beside the gradients of the first, as it is when they are accumulated."""
    with _left_as_it_was(model, device):
        try:
            trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            # What the optimizer will allocate at its first step.
            held = torch.empty(load.copies, trained, device=device)
            for _ in range(2):
                _pass(model, torch.zeros(shape, device=device), DTYPES[load.precision])
            del held
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
    return True


def _pass(model: nn.Module, pixels: Tensor, dtype: torch.dtype) -> None:
    with torch.autocast(pixels.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits: Any = model(pixel_values=pixels).logits
    logits.float().logsumexp(dim=-1).mean().backward()


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Train mode within; then no gradients, and the mode, buffers, generators and free memory of before."""
    training, before = model.training, [buffer.clone() for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
            model.train()
            yield
    finally:
        model.train(training).zero_grad()
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)
        clear_device_cache(garbage_collection=True)
