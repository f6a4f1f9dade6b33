"""Metrics of the classes: precision, recall and F1 of each, their means, and which classes are confused.

Only the classes that have images count. The precision of a class that is never predicted is 0, as in scikit-learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from pipeline.evaluation.confidence import wilson_interval

Floats = NDArray[np.float64]

BOOTSTRAP_SAMPLES = 2000
BLOCK = 100
"""Number of samples in memory at a time."""
MAX_CONFUSED = 20


@dataclass(frozen=True)
class ClassCounts:
    """Counts of the classes that have images; each array but the last has the shape (classes with images,).

    Attributes:
        classes: The numbers of the classes, ascending.
        correct: Number of images of the class that are predicted correctly.
        samples: Number of images of the class.
        predicted: Number of images of all classes that are predicted as the class.
        mistakes: Number of images of a class (row) that are predicted as another class (column), sparse.
    """

    classes: NDArray[np.int64]
    correct: NDArray[np.int64]
    samples: NDArray[np.int64]
    predicted: NDArray[np.int64]
    mistakes: Any


def count_classes(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> ClassCounts:
    """Return the counts of the classes that have images.

    Args:
        labels: True classes, shape (images,).
        predicted: Predicted classes, shape (images,).
        classes: Number of classes.
    """
    samples = np.bincount(labels, minlength=classes)
    there = np.flatnonzero(samples)
    correct = np.bincount(labels[labels == predicted], minlength=classes)
    wrong = labels != predicted
    pairs = (labels[wrong], predicted[wrong])
    mistakes = coo_array((np.ones(wrong.sum()), pairs), shape=(classes, classes)).tocsr()[there][:, there]
    found = np.bincount(predicted, minlength=classes)
    return ClassCounts(there, correct[there], samples[there], found[there], mistakes)


def macro_metrics(counts: ClassCounts) -> dict[str, float]:
    """Return the means over the classes: each class counts equally, whatever its number of images.

    The intervals are the 2.5% and 97.5% quantiles of 2,000 samples of the counts of every class (parametric bootstrap
    with a fixed seed), see `_sample`.

    Returns:
        `macro_accuracy`, `macro_precision`, `macro_recall` (equal to `macro_accuracy`) and `macro_f1`, each with
        `_low` and `_high` of its 95% interval.
    """
    rng = np.random.default_rng(0)
    blocks = [_sample(counts, rng) for _ in range(BOOTSTRAP_SAMPLES // BLOCK)]
    means = np.concatenate([_means(correct, counts.samples, predicted) for correct, predicted in blocks], axis=1)
    measured = _means(counts.correct, counts.samples, counts.predicted)
    # Smoothing pulls towards one half, so only the spread is used, around the value that was measured.
    spread = np.quantile(means - means.mean(axis=1, keepdims=True), [0.025, 0.975], axis=1)
    low, high = np.clip(measured + spread, 0, 1)
    results: dict[str, float] = {}
    for name, number in (("accuracy", 1), ("precision", 0), ("recall", 1), ("f1", 2)):
        ends = {"": measured[number], "_low": low[number], "_high": high[number]}
        results |= {f"macro_{name}{end}": float(value) for end, value in ends.items()}
    return results


def per_class(counts: ClassCounts, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the metrics of each class that has images, by its name.

    Returns:
        Name -> `accuracy` (the fraction of its images that are predicted correctly) with `accuracy_low` and
        `accuracy_high` of Wilson's 95% interval, `precision`, `recall` (equal to `accuracy`), `f1`, `samples` and
        `predicted` (number of images predicted as the class).
    """
    low, high = wilson_interval(counts.correct, counts.samples)
    precision, recall, f1 = _scores(counts.correct, counts.samples, counts.predicted)
    columns = {
        "accuracy": recall,
        "accuracy_low": low,
        "accuracy_high": high,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "samples": counts.samples,
        "predicted": counts.predicted,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {
        class_names[number]: dict(zip(columns, row, strict=True))
        for number, row in zip(counts.classes, rows, strict=True)
    }


def confused(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the most frequent mistakes: `true` and `predicted` class and `count`, at most 20, most frequent first."""
    wrong, classes = labels != predicted, len(class_names)
    pairs, counts = np.unique(labels[wrong].astype(np.int64) * classes + predicted[wrong], return_counts=True)
    return [
        {
            "true": class_names[pairs[i] // classes],
            "predicted": class_names[pairs[i] % classes],
            "count": int(counts[i]),
        }
        for i in np.argsort(-counts, kind="stable")[:MAX_CONFUSED]
    ]


def _sample(counts: ClassCounts, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return samples of the numbers of correct predictions and of predictions of each class.

    Correct predictions are binomial. Their rate is smoothed by Jeffreys' prior, so that 10 of 10 correct images is not
    taken for certainty. The other images of a class are predicted as other classes as often as its mistakes were, or
    as any class if there were none; these counts are normal, with the variance of a multinomial distribution.
    """
    shape, total = (BLOCK, len(counts.classes)), counts.samples - counts.correct
    correct = rng.binomial(counts.samples, (counts.correct + 0.5) / (counts.samples + 1), shape)
    wrong = counts.samples - correct
    rates = counts.mistakes.multiply(1 / np.maximum(total, 1)[:, None]).tocsr()
    spread = wrong[:, total == 0].sum(axis=1, keepdims=True) / shape[1]
    mean, variance = wrong @ rates + spread, wrong @ (rates - rates.power(2)) + spread
    others = mean + np.sqrt(np.maximum(variance, 0)) * rng.normal(size=shape)
    return correct, correct + np.maximum(others, 0)


def _scores(correct: NDArray[Any], samples: NDArray[Any], predicted: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 of each class."""
    return correct / np.maximum(predicted, 1), correct / samples, 2 * correct / (samples + predicted)


def _means(correct: NDArray[Any], samples: NDArray[Any], predicted: NDArray[Any]) -> Floats:
    """Return the means of precision, recall and F1 over the last axis, stacked along a new first axis."""
    return np.stack([score.mean(axis=-1) for score in _scores(correct, samples, predicted)])
