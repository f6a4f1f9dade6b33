"""An entry of a race: a backbone and a strategy, its answers on validation, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROBE, ENSEMBLE = "linear probe", "soft vote"
"""Strategies of a race. The others are nearest neighbors, and those of `train`: full, lora and auto."""


@dataclass(frozen=True)
class Cost:
    """What a network costs on this machine.

    Attributes:
        parameters: Number of parameters.
        gflops: FLOPs of the forward pass for one image, in billions.
        input_size: Height and width of its images in pixels.
        train_images_per_second: Throughput of training; None if it cannot be trained with these settings.
        predict_images_per_second: Throughput of prediction in fp32.
        memory_gb: Peak memory of the GPU in a training step; None on a CPU, where the process holds other things too.
    """

    parameters: int
    gflops: float
    input_size: tuple[int, int]
    train_images_per_second: float | None
    predict_images_per_second: float | None
    memory_gb: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Cost":
        """Return the cost that was written as JSON."""
        return cls(**dict(values) | {"input_size": tuple(values["input_size"])})


@dataclass(frozen=True)
class Answers:
    """The predictions of an entry for a split.

    Attributes:
        labels: True classes, shape (images,).
        predicted: Predicted classes, shape (images,).
        logits: Shape (images, classes); None for nearest neighbors.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    logits: NDArray[np.float32] | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is correct."""
        return np.asarray(self.predicted == self.labels)

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> "Answers":
        """Return the answers of a network."""
        return cls(labels, logits.argmax(axis=1), logits)


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        backbone: The backbone as the user named it; the names of several, joined by ` + `.
        strategy: How it was fitted.
        validation: Its predictions on validation; None if it failed.
        test: Its predictions on test, if it was scored there.
        cost: What it costs; None for nearest neighbors and failures.
        license: The license of the backbone, if one is stated.
        folder: Folder of its saved model; None if none is saved.
        error: Why it failed.
    """

    backbone: str
    strategy: str
    validation: Answers | None = None
    test: Answers | None = None
    cost: Cost | None = None
    license: str | None = None
    folder: Path | None = None
    error: str | None = None

    @property
    def accuracy(self) -> float:
        """Accuracy on validation; -1 if it failed."""
        return -1.0 if self.validation is None else float(self.validation.correct.mean())

    @property
    def can_be_chosen(self) -> bool:
        """Whether it is one network that can be saved."""
        return self.validation is not None and self.validation.logits is not None and self.strategy != ENSEMBLE
