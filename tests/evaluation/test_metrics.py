"""Every metric agrees with values by hand and with scikit-learn; the intervals have their stated coverage."""

import json
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score

from pipeline.errors import PipelineError
from pipeline.evaluation.confidence import calibration_error, risk_coverage, wilson_interval
from pipeline.evaluation.metrics import Accuracy, compute, split_metrics

RATES = ("accuracy", "macro_accuracy", "macro_precision", "macro_recall", "macro_f1")
KEYS = {f"{name}{end}" for name in RATES for end in ("", "_low", "_high")} | {
    "samples", "loss", "brier_score", "calibration_error", "aurc", "per_class", "confused",
}  # fmt: skip


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
    logits = np.zeros((4, 8), dtype=np.float32)
    logits[:, :6] = np.arange(6, 0, -1)  # class 5 is the sixth, 6 and 7 are last
    ranked = split_metrics(logits, np.array([0, 4, 5, 6]), list("abcdefgh"))
    assert (ranked["accuracy"], ranked["top5_accuracy"]) == (1 / 4, 2 / 4)
    assert (ranked["top5_accuracy_low"], ranked["top5_accuracy_high"]) == wilson_interval(2, 4)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    logits, labels = drawn(seed)
    answers = split_metrics(logits, labels, [f"class {number}" for number in range(8)])
    predicted, numbers = logits.argmax(axis=1), np.arange(8)
    assert answers["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert answers["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=numbers))
    assert answers["macro_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    probabilities = softmax(logits)
    assert answers["loss"] == pytest.approx(log_loss(labels, probabilities, labels=numbers), rel=1e-6)
    brier = brier_score_loss(labels, probabilities, labels=numbers, scale_by_half=False)
    assert answers["brier_score"] == pytest.approx(brier, rel=1e-6)
    confidence, correct = probabilities.max(axis=1), predicted == labels
    assert answers["calibration_error"] == pytest.approx(calibration_error(confidence, correct), rel=1e-5)
    assert answers["aurc"] == pytest.approx(risk_coverage(confidence, correct).area)
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


def test_top_5_accuracy_needs_more_than_five_classes() -> None:
    names = [f"class {number}" for number in range(6)]
    five = split_metrics(*drawn(0, classes=5), names[:5])
    six = split_metrics(*drawn(0, classes=6), names)
    assert five.keys() == KEYS
    assert six.keys() == five.keys() | {"top5_accuracy", "top5_accuracy_low", "top5_accuracy_high"}


def test_classes_without_images_do_not_count() -> None:
    logits = 5 * np.eye(7, dtype=np.float32)[[2, 2, 4, 4]]
    answers = split_metrics(logits, np.array([2, 2, 4, 2]), [f"class {number}" for number in range(7)])
    assert answers["macro_accuracy"] == (2 / 3 + 1 / 1) / 2
    assert answers["accuracy"] == 0.75
    assert answers["per_class"].keys() == {"class 2", "class 4"}
    assert all(np.isfinite(value) for key, value in answers.items() if key not in ("per_class", "confused"))


def test_probabilities_of_exactly_0_and_1() -> None:
    logits = np.array([[1000.0, 0.0], [1000.0, 0.0]], dtype=np.float32)
    right, half = (split_metrics(logits, np.array(labels), ["a", "b"]) for labels in ([0, 0], [0, 1]))
    assert [right[key] for key in ("loss", "brier_score", "calibration_error", "aurc")] == [0, 0, 0, 0]
    assert [half[key] for key in ("loss", "brier_score", "aurc")] == [500, 1, 0.5]


def test_a_split_with_one_image_has_no_calibration_error() -> None:
    answers = split_metrics(np.array([[2.0, 1.0]], dtype=np.float32), np.array([0]), ["a", "b"])
    assert answers.keys() == KEYS - {"calibration_error"}
    assert answers["accuracy"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits, labels = drawn(0)
    logits[[17, 40], 3] = value
    with pytest.raises(PipelineError, match=r"^test split: NaN or infinite logits for 2 of 300 images.* number 17: "):
        split_metrics(logits, labels, list("abcdefgh"), name="test split")


def test_metrics_are_plain_numbers() -> None:
    answers = split_metrics(*drawn(0), [f"class {number}" for number in range(8)])
    per_class, confused = answers.pop("per_class"), answers.pop("confused")
    rows = [answers, *per_class.values()]
    assert {type(value) for row in rows for value in row.values()} == {int, float}
    assert json.loads(json.dumps(confused)) == confused


def test_nothing_is_written_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    one(Accuracy, [0, 1], [0, 0])
    assert list(tmp_path.rglob("*")) == []
