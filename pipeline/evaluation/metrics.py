"""The metrics: `evaluate.Metric` subclasses in the package, so that no metric code is downloaded and run.

All of them are computed from the predictions of a complete split; every accuracy has its count and a 95% interval.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch.nn import functional

TOP_K = 5


class _Metric(evaluate.Metric):
    """A metric that writes nothing into the cache of `evaluate`, which may be read-only."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)


class Accuracy(_Metric):
    """Fraction of correct predictions, with Wilson's 95% interval."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Value("int32"), self.__doc__)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        correct = int((np.asarray(predictions) == np.asarray(references)).sum())
        return _with_interval("accuracy", correct, len(references))


class TopKAccuracy(_Metric):
    """Fraction of images whose class is among the `k` most likely; predictions are rows of ranked classes."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Sequence(datasets.Value("int32")), self.__doc__)

    def _compute(self, predictions: Sequence[Sequence[int]], references: Sequence[int]) -> dict[str, float]:
        ranked = np.asarray(predictions)
        correct = int((ranked == np.asarray(references)[:, None]).any(axis=1).sum())
        return _with_interval(f"top{ranked.shape[1]}_accuracy", correct, len(references))


class MacroAccuracy(_Metric):
    """Mean of the accuracies of the classes: each class counts equally, whatever its number of images.

    The interval is the 2.5% and 97.5% quantile of 2,000 samples of every class's count of correct predictions
    (parametric bootstrap with a fixed seed). The class accuracies are smoothed by Jeffreys' prior, so that 10 of 10
    correct images is not taken for certainty.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Value("int32"), self.__doc__)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        truth = np.asarray(references)
        correct = np.bincount(truth, weights=np.asarray(predictions) == truth)
        count = np.bincount(truth)
        correct, count = correct[count > 0], count[count > 0]
        smoothed = (correct + 0.5) / (count + 1)
        sampled = np.random.default_rng(0).binomial(count, smoothed, (2000, len(count))) / count
        # Smoothing pulls towards one half, so only the spread is used, around the accuracy that was measured.
        macro, means = float(np.mean(correct / count)), np.mean(sampled, axis=1)
        low, high = np.quantile(means - means.mean(), [0.025, 0.975]) + macro
        return {
            "macro_accuracy": macro,
            "macro_accuracy_low": max(0.0, float(low)),
            "macro_accuracy_high": min(1.0, float(high)),
        }


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95% score interval for `correct` of `count` (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212)."""
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def split_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Return every metric of one split.

    Args:
        logits: Shape (images, classes).
        labels: True classes, shape (images,).
        class_names: Names of the classes, in the order of the logits.

    Returns:
        `accuracy`, `top5_accuracy` (if there are more than five classes) and `macro_accuracy`, each with `_low` and
        `_high` of its 95% interval; `loss` (mean cross-entropy in nats); `samples`; `per_class`: name -> accuracy,
        interval and samples.
    """
    predicted = logits.argmax(axis=1)
    results: dict[str, Any] = {"samples": len(labels), "loss": cross_entropy(logits, labels)}
    results |= compute(Accuracy(), predicted, labels)
    if logits.shape[1] > TOP_K:
        results |= compute(TopKAccuracy(), np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K], labels)
    results |= compute(MacroAccuracy(), predicted, labels)
    per_class = {}
    for number, name in enumerate(class_names):
        in_class = labels == number
        if in_class.any():
            correct, count = int((predicted[in_class] == number).sum()), int(in_class.sum())
            per_class[name] = _with_interval("accuracy", correct, count) | {"samples": count}
    return results | {"per_class": per_class}


def compute(metric: evaluate.Metric, predictions: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Return the values of one metric."""
    result: dict[str, float] = metric.compute(predictions=predictions, references=labels)
    return result


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy in nats, computed in double precision."""
    return float(functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)))


def _with_interval(name: str, correct: int, count: int) -> dict[str, float]:
    low, high = wilson_interval(correct, count)
    return {name: correct / count, f"{name}_low": low, f"{name}_high": high}


def _info(prediction: Any, description: str | None) -> evaluate.MetricInfo:
    features = datasets.Features({"predictions": prediction, "references": datasets.Value("int32")})
    return evaluate.MetricInfo(description=description, citation="", inputs_description="", features=features)
