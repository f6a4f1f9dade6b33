"""When an exported file is refused."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.deployment.parity import Agreement, Reference

NAMES = ["rose", "tulip"]
LABELS = np.array([0] * 40 + [1] * 160)


def logits_of(predicted: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.eye(2, dtype=np.float32)[predicted]


REFERENCE = Reference(LABELS, logits_of(LABELS), unknown=np.arange(200) < 10)


def compare(wrong: list[int], *, unknown: int = 10) -> Agreement:
    predicted = LABELS.copy()
    predicted[wrong] = 1 - predicted[wrong]
    scores = np.where(np.arange(200) < unknown, 3.0, 1.0).astype(np.float32)
    return REFERENCE.compare({"logits": logits_of(predicted), "unknown_score": scores}, NAMES, 2.0)


def test_equal_outputs_agree_completely() -> None:
    found = compare([])
    assert (found.accuracy, found.drop, found.same, found.logit_difference, found.same_unknown) == (1, 0, 1, 0, 1)
    assert found.refusals(0.0, fp32=True, largest=1.0) == []


def test_the_drop_is_counted_in_points_and_by_class() -> None:
    found = compare([0, 1, 2, 50], unknown=20)
    assert found.drop == pytest.approx(2.0)
    assert found.same == pytest.approx(0.98)
    assert (found.worst_class, found.worst_lost) == ("rose", 3)
    assert found.worst_drop == pytest.approx(7.5)
    assert found.same_unknown == pytest.approx(0.95)
    assert found.refusals(1.9, fp32=False, largest=1.0) == [
        "2.00 points less accuracy (98.00%)",
        "7.5 points less on class 'rose' (3 images)",
    ]


def test_two_images_of_a_class_are_not_a_reason() -> None:
    assert compare([0, 1]).refusals(1.0, fp32=False, largest=1.0) == []
    assert compare([0, 1, 2]).refusals(2.0, fp32=False, largest=1.0) == ["7.5 points less on class 'rose' (3 images)"]


def test_images_that_become_correct_count_in_favor() -> None:
    worse = Reference(LABELS, logits_of(np.zeros(200, dtype=np.int64)), None)
    found = worse.compare({"logits": logits_of(LABELS)}, NAMES, None)
    assert (found.drop, found.accuracy, found.same_unknown) == (-80.0, 1.0, None)


def test_logits_of_fp32_must_be_those_of_the_network() -> None:
    near = dataclasses.replace(compare([]), logit_difference=5e-3)
    assert near.refusals(0.5, fp32=True, largest=1.0) == ["logits that differ by up to 0.005"]
    assert near.refusals(0.5, fp32=True, largest=8.0) == []
    assert near.refusals(0.5, fp32=False, largest=1.0) == []


def test_logits_that_are_not_numbers_are_refused() -> None:
    broken = np.full((200, 2), np.nan, dtype=np.float32)
    found = REFERENCE.compare({"logits": broken, "unknown_score": broken[:, 0]}, NAMES, 2.0)
    assert "logits that are not numbers" in found.refusals(100.0, fp32=False, largest=1.0)
