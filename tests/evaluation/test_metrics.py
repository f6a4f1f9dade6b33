"""Every metric agrees with values by hand and with scikit-learn; the intervals have their stated coverage."""

from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score

from pipeline.evaluation.metrics import (
    Accuracy,
    MacroAccuracy,
    TopKAccuracy,
    compute,
    cross_entropy,
    split_metrics,
    wilson_interval,
)

INTERVALS = {f"{name}{end}" for name in ("accuracy", "macro_accuracy") for end in ("", "_low", "_high")}


def drawn(seed: int, *, images: int = 300, classes: int = 8) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits that are correct more often than not, for classes of unequal size."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, images, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels.astype(np.int64)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def one(metric: type[evaluate.Metric], predictions: Any, labels: Any) -> dict[str, float]:
    return compute(metric(), np.asarray(predictions), np.asarray(labels))


def test_accuracies_by_hand() -> None:
    right = one(Accuracy, [0, 1, 1, 2], [0, 1, 2, 2])
    assert right["accuracy"] == 0.75
    ranked = one(TopKAccuracy, [[0, 1], [2, 0], [1, 0], [1, 2]], [0, 1, 0, 2])
    assert ranked["top2_accuracy"] == 0.75
    macro = one(MacroAccuracy, [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1])
    assert macro["macro_accuracy"] == (4 / 4 + 1 / 2) / 2


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    logits, labels = drawn(seed)
    answers = split_metrics(logits, labels, [f"class {number}" for number in range(8)])
    predicted, numbers = logits.argmax(axis=1), np.arange(8)
    assert answers["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert answers["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=numbers))
    assert answers["macro_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert answers["loss"] == pytest.approx(log_loss(labels, softmax(logits), labels=numbers), rel=1e-9)
    assert answers["samples"] == 300


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (0, 10), (10, 10), (1, 3), (37, 50), (999, 1000), (5741, 6149)]
)
def test_wilson_intervals_agree_with_the_formula(right: int, count: int) -> None:
    # Wilson (1927): the values p with |right / count - p| = z * sqrt(p * (1 - p) / count).
    z2, share = 1.959963984540054**2, right / count
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    low, high = wilson_interval(right, count)
    assert (low, high) == pytest.approx((center - half, center + half), abs=1e-9)
    assert 0 <= low <= right / count <= high + 1e-12 <= 1 + 1e-12


def test_the_interval_of_an_accuracy_is_the_wilson_interval() -> None:
    answer = one(Accuracy, [1] * 7 + [0] * 3, [1] * 10)
    assert (answer["accuracy_low"], answer["accuracy_high"]) == wilson_interval(7, 10)
    ranked = one(TopKAccuracy, [[1, 0]] * 7 + [[0, 2]] * 3, [1] * 10)
    assert (ranked["top2_accuracy_low"], ranked["top2_accuracy_high"]) == wilson_interval(7, 10)


@pytest.mark.parametrize(
    ("shares", "counts"),
    [
        (np.linspace(0.5, 0.95, 10), np.full(10, 20)),
        (np.linspace(0.2, 0.9, 6), np.array([5, 8, 13, 40, 90, 200])),
        (np.linspace(0.85, 0.97, 12), np.full(12, 30)),
        (np.array([0.7, 0.9]), np.array([30, 300])),
    ],
    ids=["equal classes", "unequal classes", "easy classes", "two classes"],
)
def test_the_interval_of_the_mean_over_classes_covers_the_truth(
    shares: NDArray[np.float64], counts: NDArray[np.int64]
) -> None:
    rng, draws, covered, labels = np.random.default_rng(11), 200, 0, np.repeat(np.arange(len(counts)), counts)
    for _ in range(draws):
        right = rng.random(len(labels)) < shares[labels]
        answer = one(MacroAccuracy, np.where(right, labels, (labels + 1) % len(counts)), labels)
        covered += int(answer["macro_accuracy_low"] <= float(shares.mean()) <= answer["macro_accuracy_high"])
    assert 0.90 <= covered / draws <= 0.99


def test_a_perfect_macro_accuracy_has_an_interval_below_one() -> None:
    answer = one(MacroAccuracy, [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1])
    assert answer["macro_accuracy"] == 1.0
    assert answer["macro_accuracy_low"] < 0.9
    assert answer["macro_accuracy_high"] == 1.0


def test_the_same_predictions_give_the_same_interval() -> None:
    logits, labels = drawn(0)
    assert one(MacroAccuracy, logits.argmax(1), labels) == one(MacroAccuracy, logits.argmax(1), labels)


def test_top_5_accuracy_needs_more_than_five_classes() -> None:
    names = [f"class {number}" for number in range(6)]
    five = split_metrics(*drawn(0, classes=5), names[:5])
    six = split_metrics(*drawn(0, classes=6), names)
    assert five.keys() == INTERVALS | {"samples", "loss", "per_class"}
    assert six.keys() == five.keys() | {"top5_accuracy", "top5_accuracy_low", "top5_accuracy_high"}


def test_every_class_has_its_accuracy_interval_and_count() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1, 0]]
    answers = split_metrics(logits, np.array([0, 0, 0, 1, 1, 1]), ["a", "b", "c"])
    low, high = wilson_interval(2, 3)
    row = {"accuracy": 2 / 3, "accuracy_low": low, "accuracy_high": high, "samples": 3}
    assert answers["per_class"] == {"a": row, "b": row}


def test_classes_without_images_do_not_count() -> None:
    logits = 5 * np.eye(7, dtype=np.float32)[[2, 2, 4, 4]]
    answers = split_metrics(logits, np.array([2, 2, 4, 2]), [f"class {number}" for number in range(7)])
    assert answers["macro_accuracy"] == (2 / 3 + 1 / 1) / 2
    assert answers["accuracy"] == 0.75
    assert answers["per_class"].keys() == {"class 2", "class 4"}
    assert all(np.isfinite(value) for key, value in answers.items() if key != "per_class")


def test_the_loss_of_very_confident_predictions_does_not_overflow() -> None:
    logits = np.array([[1000.0, 0.0], [1000.0, 0.0]], dtype=np.float32)
    assert cross_entropy(logits, np.array([0, 0])) == 0.0
    assert cross_entropy(logits, np.array([0, 1])) == 500.0


def test_metrics_are_plain_numbers() -> None:
    answers = split_metrics(*drawn(0), [f"class {number}" for number in range(8)])
    rows = [answers, *answers.pop("per_class").values()]
    assert {type(value) for row in rows for value in row.values()} <= {int, float}


def test_nothing_is_written_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    split_metrics(*drawn(0), [f"class {number}" for number in range(8)])
    assert list(tmp_path.rglob("*")) == []
