"""The metrics of the classes agree with values by hand and with scikit-learn; the intervals have their coverage."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline.evaluation.classes import confused, count_classes, macro_metrics, per_class
from pipeline.evaluation.confidence import wilson_interval

Ints = NDArray[np.int64]


def macro(predicted: Ints | list[int], labels: Ints | list[int]) -> dict[str, float]:
    classes = 1 + max(*predicted, *labels)
    return macro_metrics(count_classes(np.asarray(labels), np.asarray(predicted), classes))


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_and_f1_agree_with_scikit_learn(seed: int) -> None:
    # Classes 0 and 1 have no images, class 2 is never predicted.
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, 12, 200)
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 12, 200))
    predicted[predicted == 2] = 5
    counts = count_classes(labels, predicted, 12)
    there = np.arange(2, 12)
    rows = per_class(counts, [f"class {number}" for number in range(12)])
    assert list(rows) == [f"class {number}" for number in there]
    expected = precision_recall_fscore_support(labels, predicted, labels=there, zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "samples"), expected, strict=True):
        np.testing.assert_allclose([row[key] for row in rows.values()], values)
    means = precision_recall_fscore_support(labels, predicted, labels=there, zero_division=0, average="macro")
    found = macro_metrics(counts)
    assert [found[f"macro_{key}"] for key in ("precision", "recall", "f1")] == pytest.approx(means[:3])
    assert rows["class 2"]["precision"] == rows["class 2"]["f1"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_confused_pairs_agree_with_the_confusion_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 7, (2, 500))
    names = [f"class {number}" for number in range(7)]
    matrix = confusion_matrix(labels, predicted, labels=np.arange(7))
    np.fill_diagonal(matrix, 0)
    pairs = confused(labels, predicted, names)
    assert len(pairs) == 20
    assert [pair["count"] for pair in pairs] == sorted(matrix.ravel(), reverse=True)[:20]
    assert all(matrix[names.index(p["true"]), names.index(p["predicted"])] == p["count"] for p in pairs)
    assert len({(p["true"], p["predicted"]) for p in pairs}) == 20


def test_equally_frequent_pairs_stand_in_the_order_of_the_classes() -> None:
    pairs = confused(np.array([2, 0, 1, 1, 0]), np.array([1, 2, 0, 0, 0]), ["a", "b", "c"])
    assert [(p["true"], p["predicted"], p["count"]) for p in pairs] == [("b", "a", 2), ("a", "c", 1), ("c", "b", 1)]
    assert confused(np.array([1, 0]), np.array([1, 0]), ["a", "b"]) == []


def test_every_class_has_its_metrics_interval_and_counts() -> None:
    counts = count_classes(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 2]), 3)
    low, high = wilson_interval(2, 3)
    row = {"accuracy": 2 / 3, "accuracy_low": low, "accuracy_high": high, "recall": 2 / 3, "samples": 3}
    assert per_class(counts, ["a", "b", "c"]) == {
        "a": row | {"precision": 1, "f1": pytest.approx(4 / 5), "predicted": 2},
        "b": row | {"precision": 2 / 3, "f1": pytest.approx(2 / 3), "predicted": 3},
    }


def test_the_mean_over_classes_by_hand() -> None:
    found = macro([0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1])
    assert found["macro_accuracy"] == found["macro_recall"] == (4 / 4 + 1 / 2) / 2
    assert found["macro_precision"] == (4 / 5 + 1) / 2
    assert found["macro_f1"] == pytest.approx((8 / 9 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("shares", "samples"),
    [
        (np.linspace(0.5, 0.95, 10), np.full(10, 20)),
        (np.linspace(0.2, 0.9, 6), np.array([5, 8, 13, 40, 90, 200])),
        (np.linspace(0.85, 0.97, 12), np.full(12, 30)),
        (np.array([0.7, 0.9]), np.array([30, 300])),
    ],
    ids=["equal classes", "unequal classes", "easy classes", "two classes"],
)
def test_the_intervals_of_the_means_over_classes_cover_the_truth(
    shares: NDArray[np.float64], samples: NDArray[np.int64]
) -> None:
    rng, repeats, classes = np.random.default_rng(11), 200, len(samples)
    labels = np.repeat(np.arange(classes), samples)
    # The expected counts: a wrong prediction names the next class.
    right, named = shares * samples, shares * samples + np.roll((1 - shares) * samples, 1)
    truth = {"accuracy": shares, "precision": right / named, "f1": 2 * right / (samples + named)}
    covered = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        correct = rng.random(len(labels)) < shares[labels]
        found = macro(np.where(correct, labels, (labels + 1) % classes), labels)
        for name, values in truth.items():
            covered[name] += int(found[f"macro_{name}_low"] <= values.mean() <= found[f"macro_{name}_high"])
    assert all(0.90 <= count / repeats <= 0.995 for count in covered.values()), covered


def test_a_perfect_macro_accuracy_has_an_interval_below_one() -> None:
    found = macro([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1])
    assert found["macro_accuracy"] == found["macro_f1"] == 1.0
    assert found["macro_accuracy_low"] < 0.9
    assert found["macro_f1_low"] < 0.9
    assert found["macro_accuracy_high"] == 1.0


def test_the_same_predictions_give_the_same_interval() -> None:
    labels, predicted = np.random.default_rng(0).integers(0, 5, (2, 60))
    assert macro(predicted, labels) == macro(predicted, labels)
