"""The metrics: `evaluate.Metric` subclasses in the package, so that none is downloaded and run.

All are computed on gathered predictions; every accuracy comes with its count and a 95 % interval.
"""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution: two-sided 95 %."""


class _Metric(evaluate.Metric):
    """A metric that writes nothing into the cache of `evaluate`, which need not be writable."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)


class Accuracy(_Metric):
    """Share of right predictions, with Wilson's 95 % interval."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Value("int32"), self.__doc__)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        right = int((np.asarray(predictions) == np.asarray(references)).sum())
        return _with_interval("accuracy", right, len(references))


class TopKAccuracy(_Metric):
    """Share of images whose class is among the `k` that rank highest; predictions are rows of ranked classes."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Sequence(datasets.Value("int32")), self.__doc__)

    def _compute(self, predictions: Sequence[Sequence[int]], references: Sequence[int]) -> dict[str, float]:
        ranked = np.asarray(predictions)
        right = int((ranked == np.asarray(references)[:, None]).any(axis=1).sum())
        return _with_interval(f"top{ranked.shape[1]}_accuracy", right, len(references))


class MacroAccuracy(_Metric):
    """Mean over the classes of their accuracies: each class counts the same, however many images it has.

    Its interval is the 2.5 and 97.5 % quantiles of 2,000 redraws of every class's count of right predictions
    (parametric bootstrap, seeded), the classes' shares smoothed by Jeffreys' prior, so that 10 of 10 is not certain.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Value("int32"), self.__doc__)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        truth = np.asarray(references)
        right = np.bincount(truth, weights=np.asarray(predictions) == truth)
        count = np.bincount(truth)
        right, count = right[count > 0], count[count > 0]
        smoothed = (right + 0.5) / (count + 1)
        redrawn = np.random.default_rng(0).binomial(count, smoothed, (2000, len(count))) / count
        # Smoothing pulls towards one half: the spread is taken around the accuracy that was measured.
        macro, spread = float(np.mean(right / count)), np.mean(redrawn, axis=1)
        low, high = np.quantile(spread - spread.mean(), [0.025, 0.975]) + macro
        return {
            "macro_accuracy": macro,
            "macro_accuracy_low": max(0.0, float(low)),
            "macro_accuracy_high": min(1.0, float(high)),
        }


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's score interval for `right` of `count`, at 95 %.

    Wilson (1927), J. Am. Stat. Assoc. 22, 209-212: it holds near 0 and 1 and for small counts, where the normal
    interval does not.
    """
    share, z2 = right / count, Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def split_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Every figure of one split.

    Args:
        logits: (images, classes).
        labels: (images,) class numbers.
        class_names: In label order.

    Returns:
        `accuracy`, `top5_accuracy` (where there are more than five classes) and `macro_accuracy`, each with `_low` and
        `_high` of its 95 % interval; `loss` (mean cross-entropy, nats); `samples`; `per_class`: name -> accuracy,
        interval, samples.
    """
    predicted = logits.argmax(axis=1)
    answers: dict[str, Any] = {"samples": len(labels), "loss": cross_entropy(logits, labels)}
    answers |= compute(Accuracy(), predicted, labels)
    if logits.shape[1] > (k := 5):
        answers |= compute(TopKAccuracy(), np.argsort(-logits, axis=1, kind="stable")[:, :k], labels)
    answers |= compute(MacroAccuracy(), predicted, labels)
    per_class = {}
    for number, name in enumerate(class_names):
        mine = labels == number
        if mine.any():
            right = int((predicted[mine] == number).sum())
            per_class[name] = _with_interval("accuracy", right, int(mine.sum())) | {"samples": int(mine.sum())}
    return answers | {"per_class": per_class}


def compute(metric: evaluate.Metric, predictions: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Compute one metric on gathered predictions."""
    result: dict[str, float] = metric.compute(predictions=predictions, references=labels)
    return result


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy in nats, in double precision."""
    return float(functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)))


def _with_interval(name: str, right: int, count: int) -> dict[str, float]:
    low, high = wilson_interval(right, count)
    return {name: right / count, f"{name}_low": low, f"{name}_high": high}


def _info(prediction: Any, description: str | None) -> evaluate.MetricInfo:
    features = datasets.Features({"predictions": prediction, "references": datasets.Value("int32")})
    return evaluate.MetricInfo(description=description, citation="", inputs_description="", features=features)
