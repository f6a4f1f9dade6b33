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

from pipeline.errors import PipelineError
from pipeline.models.checkpoint import family
from pipeline.models.classifier import ImageClassifier
from pipeline.probing.features import Array

Labels = NDArray[np.int64]

GRID = tuple(10 ** (exponent / 2) for exponent in range(-8, 3))
"""Values of C, the inverse of the regularization strength: 1e-4 to 10, two per decade."""

_TOLERANCE = 3e-4  # of the gradient; 1e-4 takes twice as long, for 0.1 points at most on four datasets

_MULTITHREADED_FROM = 5e9  # multiplications per pass over the images; with fewer, one thread is faster on two cores


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of raw features: logits = x @ weight.T + bias.

    Attributes:
        weight: Shape (classes, width).
        bias: Shape (classes,).
        chosen: The row of `grid` with the chosen C.
        grid: `C`, `accuracy` and `loss` on validation, for every C that was tried.
    """

    weight: Array
    bias: Array
    chosen: dict[str, float]
    grid: list[dict[str, float]]

    def logits(self, features: Array) -> Array:
        """Return the logits (images, classes) of features (images, width)."""
        return features @ self.weight.T + self.bias


def fit_probe(
    train_x: Array,
    train_y: Labels,
    valid_x: Array,
    valid_y: Labels,
    num_classes: int,
    grid: Sequence[float] = GRID,
) -> LinearProbe:
    """Fit a multinomial logistic regression on standardized features, with the C that is best on validation.

    Among equally accurate values of C the smallest wins (the strongest regularization). A class without a training
    image is never predicted; its probability is about that of half an image among all. The order of the training
    images does not matter.

    Args:
        train_x: Features (images, width).
        train_y: Labels (images,).
        valid_x: Features (images, width).
        valid_y: Labels (images,).
        num_classes: Number of classes, including those without an image.
        grid: Values of C to try, ascending.

    Raises:
        PipelineError: If all training images are of one class.
    """
    if len(np.unique(train_y)) < 2:
        raise PipelineError("a linear probe needs training images of at least two classes: add images of another class")
    # The solver turns another order of the sums into other predictions for a few images of a thousand.
    order = np.lexsort((train_x.sum(axis=1), train_y))
    train_x, train_y = train_x[order], train_y[order]
    scaler = StandardScaler().fit(train_x)
    scaled = scaler.transform(train_x).astype(np.float32)
    # Each fit starts from the previous solution, which shortens the weakly regularized fits, the slowest ones.
    regression = LogisticRegression(solver="lbfgs", tol=_TOLERANCE, max_iter=1000, warm_start=True)
    rows: list[dict[str, float]] = []
    best: LinearProbe | None = None
    for strength in grid:
        regression.set_params(C=strength)
        with _quiet_solver(len(train_y) * scaled.shape[1] * num_classes):
            regression.fit(scaled, train_y)
        weight, bias = _fold(regression, scaler, num_classes=num_classes, images=len(train_y))
        row = {"C": float(strength)} | _metrics(valid_x @ weight.T + bias, valid_y)
        rows.append(row)
        if best is None or row["accuracy"] > best.chosen["accuracy"]:
            best = LinearProbe(weight, bias, row, rows)
    assert best is not None
    return best


def calibrate(probe: LinearProbe, valid_x: Array, valid_y: Labels) -> LinearProbe:
    """Return the probe with its logits divided by the temperature that minimizes the loss on validation.

    The most accurate C usually leaves the logits too small, and so the confidence too low (temperature scaling,
    arXiv:1706.04599). The predicted classes do not change.

    Args:
        probe: The probe.
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
def _quiet_solver(multiplications: int) -> Iterator[None]:
    """Silence expected warnings, and use one thread for small products: the thread pools of NumPy and SciPy compete."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        with threadpool_limits(1 if multiplications < _MULTITHREADED_FROM else None, user_api="blas"):
            yield


def install_head(classifier: ImageClassifier, probe: LinearProbe) -> None:
    """Copy a probe that was fitted on the `head` features into the head of the network.

    Raises:
        PipelineError: If the head is not a single linear layer, or has no bias.
    """
    head = classifier.head
    bias: Any = head.bias
    if bias is None:
        name = family(classifier.model.config)
        raise PipelineError(f"the head of a {name} has no bias, which a linear probe needs: pass --head_init random")
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.weight))
        bias.copy_(torch.from_numpy(probe.bias))


def head_accuracy(classifier: ImageClassifier, x: Array, y: Labels) -> float:
    """Return the accuracy of the network's current head on `head` features (images, width)."""
    return float((classifier.head_logits(x).argmax(axis=1) == y).mean())


def _fold(regression: Any, scaler: Any, *, num_classes: int, images: int) -> tuple[Array, Array]:
    """Return weight and bias for features that are not standardized, and for all classes."""
    coefficients, intercepts = (np.asarray(a, dtype=np.float64) for a in (regression.coef_, regression.intercept_))
    if len(coefficients) == 1:  # for two classes, scikit-learn returns only the second one
        coefficients, intercepts = np.concatenate([-coefficients, coefficients]) / 2, np.r_[-intercepts, intercepts] / 2
    # One of the centered logits is positive, so a class without images, whose logit is negative, is never predicted.
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
