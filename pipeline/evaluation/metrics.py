"""The metrics of a split, and the `evaluate.Metric` that the Trainer uses.

The Trainer's metric is part of the package, so that no metric code is downloaded and run. All metrics are computed from
the predictions of a complete split; every accuracy has its count and a 95% interval.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import classes, confidence
from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.outcomes import outcomes_of

TOP_K = 5


class Accuracy(evaluate.Metric):
    """Fraction of correct predictions, with Wilson's 95% interval.

    It writes nothing into the cache of `evaluate`, which may be read-only.
    """

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int32")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description=self.__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        correct = int((np.asarray(predictions) == np.asarray(references)).sum())
        return _with_interval("accuracy", correct, len(references))


def split_metrics(
    logits: NDArray[np.floating], labels: NDArray[np.integer], class_names: Sequence[str], *, name: str = "logits"
) -> dict[str, Any]:
    """Return every metric of one split.

    Args:
        logits: Shape (images, classes); they may be memory-mapped.
        labels: True classes, shape (images,).
        class_names: Names of the classes, in the order of the logits.
        name: What errors call the logits, such as `test split` or a file name.

    Returns:
        `accuracy`, `top5_accuracy` (if there are more than five classes), and `macro_accuracy`, `macro_precision`,
        `macro_recall` and `macro_f1` over the classes that have images, each with `_low` and `_high` of its 95%
        interval; `loss` (mean cross-entropy in nats); `brier_score`; `calibration_error` (if there is more than one
        image); `aurc`; `samples`; `per_class`, see `classes.per_class`; `confused`, see `classes.confused`.

    Raises:
        PipelineError: If logits are NaN or infinite.
    """
    found = outcomes_of(logits, labels, name=name)
    images = len(labels)
    results: dict[str, Any] = {"samples": images, "loss": float(found.loss.mean())}
    results |= _with_interval("accuracy", int(found.correct.sum()), images)
    if logits.shape[1] > TOP_K:
        results |= _with_interval(f"top{TOP_K}_accuracy", int((found.rank < TOP_K).sum()), images)
    counts = classes.count_classes(found.labels, found.predicted, logits.shape[1])
    results |= classes.macro_metrics(counts)
    results["brier_score"] = confidence.brier_of_sums(found.squares, np.exp(-found.loss))
    if images > 1:
        results["calibration_error"] = confidence.calibration_error(found.confidence, found.correct)
    results["aurc"] = confidence.risk_coverage(found.confidence, found.correct).area
    results["per_class"] = classes.per_class(counts, class_names)
    return results | {"confused": classes.confused(found.labels, found.predicted, class_names)}


def compute(metric: evaluate.Metric, predictions: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Return the values of one metric."""
    result: dict[str, float] = metric.compute(predictions=predictions, references=labels)
    return result


def _with_interval(name: str, correct: int, count: int) -> dict[str, float]:
    low, high = wilson_interval(correct, count)
    return {name: correct / count, f"{name}_low": float(low), f"{name}_high": float(high)}
