"""Images per second of the network and of the exported files on the CPU of this machine."""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.deployment.parity import BATCH_SIZES
from pipeline.deployment.standalone import ExportedClassifier
from pipeline.images.processor import Normalize
from pipeline.models.classifier import ImageClassifier

PYTORCH = "PyTorch fp32"
_ROUNDS = {1: 9, 32: 3}
_SECONDS = 15.0  # for each batch size; one round is always measured


def measure_speed(
    classifier: ImageClassifier, exported: Mapping[str, ExportedClassifier], pixels: NDArray[np.uint8]
) -> dict[str, dict[str, float]]:
    """Return images per second by name and batch size (`batch_1`, `batch_32`): the median of interleaved rounds.

    Decoding and resizing are not included. Everything runs on the CPU with the threads of torch.

    Args:
        classifier: The network.
        exported: The files by name.
        pixels: One preprocessed image (height, width, 3).
    """
    network: Any = copy.deepcopy(classifier.model)
    network, normalize = network.cpu().eval(), Normalize(classifier.processor)

    @torch.no_grad()
    def run_network(batch: NDArray[np.uint8]) -> Any:
        return network(pixel_values=normalize(torch.from_numpy(batch).permute(0, 3, 1, 2))).logits

    runs: dict[str, Callable[[NDArray[np.uint8]], Any]] = {PYTORCH: run_network}
    runs |= {name: file.run for name, file in exported.items()}
    rates: dict[str, dict[str, float]] = {name: {} for name in runs}
    for size in BATCH_SIZES:
        batch = np.repeat(pixels[None], size, axis=0)
        seconds = _interleaved(runs, batch, rounds=_ROUNDS[size])
        for name in runs:
            rates[name][f"batch_{size}"] = round(size / statistics.median(seconds[name]), 2)
    return rates


def _interleaved(
    runs: Mapping[str, Callable[[NDArray[np.uint8]], Any]], batch: NDArray[np.uint8], *, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each round, after a forward pass of one image, which reads the weights."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(batch[:1])
    end = time.perf_counter() + _SECONDS
    for number in range(rounds):
        if number > 0 and time.perf_counter() > end:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            run(batch)
            seconds[name].append(time.perf_counter() - start)
    return seconds
