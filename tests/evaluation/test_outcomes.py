"""The outcomes of images agree with SciPy in double precision, whatever the chunks, the ties and the size of logits."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax

from pipeline.evaluation import outcomes
from pipeline.evaluation.outcomes import outcomes_of


def sample(seed: int, images: int = 200, classes: int = 9) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return 4 * rng.normal(size=(images, classes)).astype(np.float32), rng.integers(0, classes, images)


@pytest.mark.parametrize("chunk", [1, 9 * 64, 2**18])
def test_outcomes_agree_with_scipy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "CHUNK", chunk)
    logits, labels = sample(0)
    found = outcomes_of(logits, labels)
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(log_probabilities)
    np.testing.assert_array_equal(found.predicted, logits.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, probabilities.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.loss, -log_probabilities[np.arange(200), labels], atol=1e-6)
    np.testing.assert_allclose(found.squares, (probabilities**2).sum(axis=1), rtol=1e-6)
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(found.rank, np.argmax(order == labels[:, None], axis=1))
    np.testing.assert_array_equal(found.correct, found.predicted == labels)


def test_equal_logits_are_ranked_in_the_order_of_the_classes() -> None:
    logits = np.random.default_rng(0).integers(0, 3, (300, 9)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 9, 300)
    found = outcomes_of(logits, labels)
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(found.predicted, order[:, 0])
    np.testing.assert_array_equal(found.rank, np.argmax(order == labels[:, None], axis=1))


def test_more_classes_than_a_byte_counts() -> None:
    logits = np.arange(700, dtype=np.float32)[None]
    assert outcomes_of(logits, np.array([0])).rank.tolist() == [699]
    assert outcomes_of(np.zeros((1, 700), dtype=np.float32), np.array([699])).rank.tolist() == [699]


def test_large_logits_do_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    found = outcomes_of(np.array([[1e4, 0.0], [largest, -largest]], dtype=np.float32), np.array([1, 0]))
    assert found.loss.tolist() == [1e4, 0]
    assert found.confidence.tolist() == [1, 1]


def test_a_confidence_just_below_one_is_not_rounded_to_one() -> None:
    found = outcomes_of(np.array([[30.0, 0.0]], dtype=np.float32), np.array([0]))
    assert found.confidence[0] == pytest.approx(1 - np.exp(-30.0), abs=1e-15)
    assert 0 < found.loss[0] == pytest.approx(np.exp(-30.0), rel=1e-2)


def test_memory_mapped_logits(tmp_path: Path) -> None:
    logits, labels = sample(1)
    np.save(tmp_path / "logits.npy", logits)
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    np.testing.assert_array_equal(outcomes_of(mapped, labels).loss, outcomes_of(logits, labels).loss)
