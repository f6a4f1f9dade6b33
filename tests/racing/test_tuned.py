"""The soft vote of the finalists."""

import numpy as np
import pytest
from scipy.special import softmax

from pipeline.evaluation.uncertainty.temperature import fit_temperature
from pipeline.racing.entry import Answers, Cost, Entry
from pipeline.racing.tuned import vote

Logits = np.ndarray


def member(name: str, seed: int, *, sharpness: float, rate: float, has_test: bool = True) -> Entry:
    """Return an entry that is right on most of 300 images, as sure of itself as the sharpness says."""
    random = np.random.default_rng(seed)
    splits = []
    for images in (300, 200):
        labels = np.arange(images) % 5
        logits = (sharpness * (random.normal(size=(images, 5)) + 1.5 * np.eye(5)[labels])).astype(np.float32)
        splits.append(Answers.of(logits, labels))
    cost = Cost(1000, 0.5, (16, 16), 5.0, rate)
    return Entry(name, "full", splits[0], splits[1] if has_test else None, cost=cost, license="mit")


def test_probabilities_are_calibrated_and_averaged() -> None:
    members = [member("a", 1, sharpness=0.2, rate=30.0), member("b", 2, sharpness=9.0, rate=60.0)]
    found = vote(members)
    mean: Logits = np.zeros((200, 5))
    for each in members:
        assert each.validation is not None
        assert each.validation.logits is not None
        assert each.test is not None
        assert each.test.logits is not None
        temperature = fit_temperature(each.validation.logits, each.validation.labels)
        mean += softmax(each.test.logits.astype(np.float64) / temperature, axis=1) / 2
    assert found.test is not None
    assert found.test.logits is not None
    np.testing.assert_allclose(np.exp(found.test.logits), mean, rtol=1e-5)
    assert found.accuracy > max(each.accuracy for each in members)
    assert not found.can_be_chosen


def test_the_cost_is_that_of_all_members_one_after_the_other() -> None:
    found = vote([member("a", 1, sharpness=1, rate=30.0), member("b", 2, sharpness=1, rate=60.0, has_test=False)])
    assert found.cost is not None
    assert (found.cost.parameters, found.cost.gflops) == (2000, 1.0)
    assert found.cost.predict_images_per_second == pytest.approx(20.0)
    assert (found.backbone, found.license, found.test) == ("a + b", "mit", None)
