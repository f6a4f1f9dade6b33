"""Out-of-fold predictions: the class probabilities of each image from a linear probe that was not fitted on it.

Three predictors are combined: a strongly and a weakly regularized linear probe, and the labels of the nearest images.
Which of them is best depends on the features, so their weights are chosen: the logits are a weighted sum of the log
probabilities, and the weights maximize the likelihood of the given labels, on predictions for images that were not
fitted (a product of experts).
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from pipeline.evaluation.audit.labels import Evidence, of_predictions
from pipeline.probing.features import Array
from pipeline.probing.linear import Labels, fit_probe

logger = logging.getLogger(__name__)

STRENGTHS = (0.01, 1.0)
"""Values of C of the two probes. `tests/benchmarks/label_errors.py` compares the result with other choices."""

FOLDS, MAX_IMAGES = 5, 20_000
_TEMPERATURE = 0.05  # of the cosines of the nearest images
_FLOOR = 1e-9
_CHUNK = 2048  # rows whose similarities are in memory at once


def label_evidence(features: Array, labels: Labels, num_classes: int, *, seed: int) -> Evidence | None:
    """Return what the other images say about the label of each training image, or None with too many images.

    Nothing is known about an image that is the only one of its class.

    Args:
        features: Frozen features, shape (images, width).
        labels: Given labels, shape (images,).
        num_classes: Number of classes, including those without an image.
        seed: Random seed of the folds, which are stratified.
    """
    if len(labels) > MAX_IMAGES:
        logger.info("no out-of-fold predictions: %d training images are more than %d", len(labels), MAX_IMAGES)
        return None
    alone = np.bincount(labels, minlength=num_classes)[labels] == 1
    if alone.any():
        logger.info("%d classes have one training image, whose label cannot be checked out of fold", alone.sum())
    probabilities = predict_out_of_fold(features, labels, num_classes, seed=seed)
    probabilities[alone] = np.nan
    return of_predictions(probabilities, labels, "out-of-fold probability")


def predict_out_of_fold(features: Array, labels: Labels, num_classes: int, *, seed: int) -> NDArray[np.float64]:
    """Return the class probabilities (images, classes) of each image, predicted from other images only.

    The arguments are those of `label_evidence`.
    """
    fold = assign_folds(labels, seed=seed)
    logs = [_log(_probe_out_of_fold(features, labels, fold, num_classes, strength)) for strength in STRENGTHS]
    logs.append(_log(_nearest_labels(features, labels, num_classes)))
    return _combine(logs, labels)


def assign_folds(labels: Labels, *, seed: int) -> NDArray[np.int64]:
    """Return the fold of each image, so that the images of each class are spread evenly over the folds."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold


def _probe_out_of_fold(x: Array, y: Labels, fold: NDArray[np.int64], num_classes: int, strength: float) -> Array:
    probabilities = np.zeros((len(y), num_classes), dtype=np.float32)
    for number in np.unique(fold):
        test = fold == number
        # All classes but one may be in this fold, and a probe needs two.
        if len(np.unique(y[~test])) > 1:
            probe = fit_probe(x[~test], y[~test], x[test], y[test], num_classes, grid=(strength,))
            probabilities[test] = softmax(probe.logits(x[test]).astype(np.float64), axis=1)
        else:
            probabilities[test] = 1 / num_classes
    return probabilities


def _nearest_labels(x: Array, y: Labels, num_classes: int) -> Array:
    """Return the labels of all other images, weighted by a softmax of their cosines."""
    unit = x - x.mean(axis=0)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), _FLOOR)
    one_hot = np.eye(num_classes, dtype=np.float32)[y]
    votes = np.empty((len(y), num_classes), dtype=np.float32)
    for start in range(0, len(y), _CHUNK):
        cosines = unit[start : start + _CHUNK] @ unit.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        votes[start : start + _CHUNK] = softmax(cosines / _TEMPERATURE, axis=1) @ one_hot
    return votes


def _log(probabilities: Array) -> NDArray[np.float64]:
    return np.asarray(np.log(probabilities + _FLOOR, dtype=np.float64))


def _combine(logs: Sequence[NDArray[np.float64]], labels: Labels) -> NDArray[np.float64]:
    """Return the product of the predictors (images, classes), with the exponents that fit the labels best."""
    stacked, rows = np.stack(logs), np.arange(len(labels))

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = np.tensordot(weights, stacked, axes=1)
        expected = np.einsum("ic,pic->pi", softmax(logits, axis=1), stacked)
        loss = float((logsumexp(logits, axis=1) - logits[rows, labels]).mean())
        return loss, (expected - stacked[:, rows, labels]).mean(axis=1)

    start = np.full(len(logs), 1 / len(logs))
    fitted: Any = minimize(loss, start, jac=True, bounds=[(0, 5)] * len(logs), method="L-BFGS-B")
    return np.asarray(np.exp(log_softmax(np.tensordot(fitted.x, stacked, axes=1), axis=1)))
