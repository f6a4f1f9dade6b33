"""The accuracy on images that no earlier split has."""

import numpy as np

from pipeline.evaluation.audit.duplicates import Duplicate
from pipeline.evaluation.audit.leakage import without_leaks
from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.predictions import Predictions


def predictions(split: str) -> Predictions:
    logits = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 0]]
    return Predictions(split, list("abcde"), np.array([0, 0, 1, 0, 1]), logits)


def test_leaked_images_do_not_count() -> None:
    duplicates = [
        Duplicate(("test", 0), ("train", 3), True, 1.0),
        Duplicate(("test", 2), ("validation", 1), False, 0.98),
        Duplicate(("test", 4), ("test", 3), True, 1.0),  # within the split
        Duplicate(("validation", 1), ("train", 1), True, 1.0),
    ]
    found = without_leaks(predictions("test"), duplicates)
    low, high = wilson_interval(1, 3)
    assert found == {
        "test_leaked": 2,
        "test_unleaked_samples": 3,
        "test_unleaked_accuracy": 1 / 3,
        "test_unleaked_accuracy_low": low,
        "test_unleaked_accuracy_high": high,
    }
    assert without_leaks(predictions("validation"), duplicates)["eval_unleaked_accuracy"] == 2 / 4


def test_without_leaks_and_with_nothing_else_only_the_number_is_reported() -> None:
    assert without_leaks(predictions("test"), []) == {"test_leaked": 0}
    everything = [Duplicate(("test", row), ("train", 0), True, 1.0) for row in range(5)]
    assert without_leaks(predictions("test"), everything) == {"test_leaked": 5}
