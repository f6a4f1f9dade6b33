"""The compiled training step: whether it pays, how a network is compiled in place, and batches of one size for it.

What pays is decided without an experiment: from the FLOPs of the training, and from what earlier trainings on this
machine measured (`compile.json` in the cache folder). Evaluations are never compiled.
"""

import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import distributed
from pipeline.performance import batch_size
from pipeline.performance.device import synchronize

logger = logging.getLogger(__name__)

# What is assumed until it is measured; the first two are from ViT-B/16 in bf16 on one H200 with torch 2.11.
_MFU, _SPEED_UP, _COMPILE_SECONDS = 0.36, 1.25, 60.0
# Whatever a compiler raises that cannot handle a network or a machine, for example one without a C++ compiler.
_COMPILE_ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError,
                   TypeError, ValueError)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """The training steps whose speed is measured.

    Attributes:
        network: Class of the network.
        flops: FLOPs of a forward pass for one image.
        batch: Images per forward pass.
        precision: fp32, bf16 or fp16.
        device: Name of the device.
    """

    network: str
    flops: int
    batch: int
    precision: str
    device: str

    @property
    def key(self) -> str:
        """The name of these steps in `compile.json`."""
        network = f"{self.network} of {self.flops / 1e9:.4g} GFLOP"
        return f"{self.device}, torch {torch.__version__}, {network}, batch size {self.batch}, {self.precision}"


@dataclass(frozen=True)
class Choice:
    """Whether compiling pays, and why: a phrase with the numbers."""

    pays: bool
    reason: str


def choose(steps: Steps, *, images: float, rate: float) -> Choice:
    """Return whether compiling saves more time than it takes.

    Args:
        steps: The steps of the training.
        images: Training images of all epochs.
        rate: FLOPs per second of large matrix products.
    """
    measured = _read().get(steps.key, {})
    plain = measured.get("images_per_second", _MFU * rate / (3 * steps.flops))
    compiled = measured.get("compiled_images_per_second", _SPEED_UP * plain)
    cost = measured.get("compile_seconds", _COMPILE_SECONDS)
    seconds, saved = images / plain, images / plain - images / compiled
    origin = f"{len(measured)} of 3 numbers were measured on this machine" if measured else "estimated"
    return Choice(
        saved > cost, f"compiling takes {cost:.0f} s and saves {saved:.0f} of {seconds:.0f} s of steps ({origin})"
    )


def store(steps: Steps, measured: dict[str, float]) -> None:
    """Add numbers to `compile.json`: `images_per_second`, `compiled_images_per_second`, `compile_seconds`.

    If it cannot be written, the next training estimates.
    """
    content = _read()
    content[steps.key] = content.get(steps.key, {}) | measured
    temporary = _file().with_name(f".compile-{os.getpid()}.json")
    with contextlib.suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
        temporary.replace(_file())


def _file() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "vit-pipeline" / "compile.json"


def _read() -> dict[str, dict[str, float]]:
    """Return what is measured. A damaged file counts as empty."""
    try:
        content: Any = json.loads(_file().read_text(encoding="utf-8"))
        numbers = [value for each in content.values() for value in each.values()]
        return content if all(isinstance(value, float | int) and value > 0 for value in numbers) else {}
    except (OSError, ValueError, AttributeError):
        return {}


class CompiledNetwork:
    """A network whose training steps are compiled, for batches of one size."""

    def __init__(self, network: Any, *, batch: int) -> None:
        """Store a network that `compile_network` compiled.

        Args:
            network: The network.
            batch: The number of images for which it is compiled.
        """
        self.network, self.batch = network, batch
        # Repeated images would count twice in the statistics of a batch.
        self._may_repeat = not any(isinstance(module, _BatchNorm) for module in network.modules())

    def fill(self, pixels: Tensor) -> Tensor:
        """Repeat images of an incomplete batch until it has the size for which the network is compiled.

        The caller ignores the additional logits, so that the loss and its gradients are those of the images.
        """
        if len(pixels) >= self.batch or not self._may_repeat:
            return pixels
        return pixels[torch.arange(self.batch, device=pixels.device) % len(pixels)]

    def mode(self, pixels: Tensor) -> contextlib.AbstractContextManager[object]:
        """Return the context for a forward pass: a batch of another size is not compiled, because that takes long."""
        return contextlib.nullcontext() if len(pixels) == self.batch else uncompiled()

    def restore(self) -> None:
        """Make the network as it was before it was compiled."""
        vars(self.network).pop("_compiled_call_impl", None)


def uncompiled() -> contextlib.AbstractContextManager[object]:
    """Return a context in which compiled networks run as if they were not compiled."""
    mode: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return mode


def compile_network(
    network: Any, size: tuple[int, int], *, batch: int, device: torch.device, backend: str | None, mode: str | None
) -> CompiledNetwork | None:
    """Compile the training steps of a network in place, or log in one line why that failed. All ranks must call it.

    One forward and backward pass on zeros compiles both. Random states, buffers and gradients are restored.

    Args:
        network: The network, on its device.
        size: Height and width of its images in pixels.
        batch: Images per forward pass.
        device: The device.
        backend: Backend of `torch.compile`. None: its default.
        mode: Mode of `torch.compile`.
    """
    compiled, failure = CompiledNetwork(network, batch=batch), None
    start = time.perf_counter()
    with batch_size.restored(network, device):
        try:
            network.compile(dynamic=False, backend=backend or "inductor", mode=mode)
            logits = network(pixel_values=torch.zeros(batch, 3, *size, device=device)).logits
            logits.float().logsumexp(dim=-1).mean().backward()
            synchronize(device)
        except _COMPILE_ERRORS as error:
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    failures = [each for each in distributed.all_gather(failure) if each]
    if failures:
        compiled.restore()
        logger.warning("torch.compile failed (%s); training without it", failures[0])
        return None
    logger.info("torch.compile took %.0f s", time.perf_counter() - start)
    return compiled
