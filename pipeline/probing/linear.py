"""Linear probe: logistic regression on frozen features, its regularization chosen on validation."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models.head import find_head
from pipeline.probing.features import Array

Labels = NDArray[np.int64]

GRID = tuple(10 ** (exponent / 2) for exponent in range(-8, 3))
"""Strengths C of a probe, from strong to weak regularisation: 1e-4 to 10, two a decade."""

_MANY_THREADS_FROM = 5e9  # multiplications of a pass over the images; on two cores, one thread is faster below


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of raw features: logits = x @ weight.T + bias.

    Attributes:
        weight: (classes, width).
        bias: (classes,).
        chosen: The row of `grid` that it is.
        grid: `C`, `accuracy` and `loss` on validation, for every C that was tried.
    """

    weight: Array
    bias: Array
    chosen: dict[str, float]
    grid: list[dict[str, float]]

    def logits(self, features: Array) -> Array:
        """Features (images, width) to logits (images, classes)."""
        return features @ self.weight.T + self.bias


def fit_probe(
    train_x: Array,
    train_y: Labels,
    valid_x: Array,
    valid_y: Labels,
    num_classes: int,
    grid: Sequence[float] = GRID,
) -> LinearProbe:
    """Fit a multinomial logistic regression on standardised features, its C the best on validation.

    Of several that are equally accurate the most regularised is taken. A class without a train image is never the
    answer, and its probability is about that of half an image among all.

    Args:
        train_x: Features (images, width).
        train_y: Labels (images,).
        valid_x: Features (images, width).
        valid_y: Labels (images,).
        num_classes: Classes of the probe, those without an image included.
        grid: Values of C, ascending.

    Raises:
        PipelineError: If train has images of one class only.
    """
    if len(np.unique(train_y)) < 2:
        raise PipelineError("a linear probe needs train images of two classes or more: add images, or another class")
    scaler = StandardScaler().fit(train_x)
    scaled = scaler.transform(train_x).astype(np.float32)
    # Each fit starts where the one before has ended, so the weakly regularised ones, alone the slowest, are short.
    regression = LogisticRegression(solver="lbfgs", tol=1e-4, max_iter=1000, warm_start=True)
    rows: list[dict[str, float]] = []
    best: LinearProbe | None = None
    for strength in grid:
        regression.set_params(C=strength)
        with _solver_settings(len(train_y) * scaled.shape[1] * num_classes):
            regression.fit(scaled, train_y)
        weight, bias = _fold(regression, scaler, num_classes=num_classes, images=len(train_y))
        row = {"C": float(strength)} | _metrics(valid_x @ weight.T + bias, valid_y)
        rows.append(row)
        if best is None or row["accuracy"] > best.chosen["accuracy"]:
            best = LinearProbe(weight, bias, row, rows)
    assert best is not None
    return best


def calibrate(probe: LinearProbe, valid_x: Array, valid_y: Labels) -> LinearProbe:
    """Divide the logits by the temperature at which the loss on validation is least; their order stays.

    The regularisation that is the most accurate leaves logits small, and so too little confidence (temperature
    scaling, arXiv:1706.04599).

    Args:
        probe: Its weight and bias are divided.
        valid_x: Features (images, width).
        valid_y: Labels (images,).
    """
    logits = probe.logits(valid_x)

    def loss(log_temperature: float) -> float:
        return _metrics(logits / np.exp(log_temperature), valid_y)["loss"]

    temperature = np.float32(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
    weight, bias = probe.weight / temperature, probe.bias / temperature
    row = probe.chosen | _metrics(valid_x @ weight.T + bias, valid_y) | {"temperature": float(temperature)}
    return LinearProbe(weight, bias, row, probe.grid)


@contextlib.contextmanager
def _solver_settings(multiplications: int) -> Iterator[None]:
    """Small products on one thread: the pools of NumPy and SciPy, in turn, take each other's cores."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        with threadpool_limits(1 if multiplications < _MANY_THREADS_FROM else None, user_api="blas"):
            yield


def install_head(model: PreTrainedModel, probe: LinearProbe) -> None:
    """Write a probe that was fitted on the `head` features into the head of the network.

    Raises:
        PipelineError: If the head is no single linear layer, or has no bias.
    """
    head = find_head(model)
    bias: Any = head.bias
    if bias is None:
        raise PipelineError(
            f"the head of a {model.config.model_type} has no bias to hold a probe's: pass --head_init random"
        )
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.weight))
        bias.copy_(torch.from_numpy(probe.bias))


def head_accuracy(model: PreTrainedModel, x: Array, y: Labels) -> float:
    """The share of `head` features (images, width) to which the present head of the network gives their label."""
    head, device = find_head(model), model.device
    with torch.no_grad():
        classes = head(torch.from_numpy(x).to(device)).argmax(dim=1).cpu()
    return float((classes.numpy() == y).mean())


def _fold(regression: Any, scaler: Any, *, num_classes: int, images: int) -> tuple[Array, Array]:
    """Weight and bias for raw features and all classes."""
    coefficients, intercepts = (np.asarray(a, dtype=np.float64) for a in (regression.coef_, regression.intercept_))
    if len(coefficients) == 1:  # of two classes, scikit-learn gives the second one's
        coefficients, intercepts = np.concatenate([-coefficients, coefficients]) / 2, np.r_[-intercepts, intercepts] / 2
    # With logits whose mean is 0, whatever the image, one is positive: an absent class below 0 is never the answer.
    coefficients -= coefficients.mean(axis=0)
    intercepts -= intercepts.mean()
    weight = np.zeros((num_classes, coefficients.shape[1]))
    bias = np.full(num_classes, -np.log(2 * images))
    weight[regression.classes_] = coefficients / scaler.scale_
    bias[regression.classes_] = intercepts - weight[regression.classes_] @ scaler.mean_
    return weight.astype(np.float32), bias.astype(np.float32)


def _metrics(logits: Array, labels: Labels) -> dict[str, float]:
    likelihoods = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return {"accuracy": float((logits.argmax(axis=1) == labels).mean()), "loss": float(-likelihoods.mean())}
