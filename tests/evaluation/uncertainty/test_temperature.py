"""The temperature is the one with the lowest negative log-likelihood, and is refused where the images do not say it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.evaluation.uncertainty.temperature import fit_temperature


def sampled(seed: int, images: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits, and labels that were sampled with exactly their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, classes)).astype(np.float32)
    labels = (softmax(logits.astype(float), axis=1).cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_it_finds_the_temperature_that_the_logits_were_multiplied_with(true: float, classes: int) -> None:
    logits, labels = sampled(0, 4000, classes)
    assert fit_temperature(logits * np.float32(true), labels) == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_temperature_has_a_lower_loss(seed: int) -> None:
    logits, labels = sampled(seed, 300, 5)
    logits[:50, 4] = -1e4  # a class that is never predicted, with probabilities of exactly 0

    def loss(log_temperature: float) -> float:
        found = log_softmax(logits.astype(float) / np.exp(log_temperature), axis=1)
        return float(-found[labels != 4, labels[labels != 4]].mean())

    kept = labels != 4
    best = np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x)
    assert fit_temperature(logits[kept], labels[kept]) == pytest.approx(best, rel=1e-4)


def test_ten_images_do_not_determine_it() -> None:
    with pytest.raises(NotFitted, match=r"10 validation images determine it only up to a factor of \d"):
        fit_temperature(*sampled(1, 10, 3))


def test_correct_predictions_alone_do_not_determine_it() -> None:
    logits = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    with pytest.raises(NotFitted, match="every validation image is predicted correctly"):
        fit_temperature(logits, np.arange(400) % 4)


def test_logits_that_are_worse_than_none_are_refused() -> None:
    logits = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    for useless in (logits[::-1], np.ones((400, 4), np.float32)):
        with pytest.raises(NotFitted, match="equal probabilities have the lowest loss"):
            fit_temperature(useless, np.arange(400) % 4)


def test_a_mistake_with_a_probability_of_1_raises_it() -> None:
    logits, labels = sampled(2, 1000, 3)
    without = fit_temperature(logits, labels)
    logits[0], labels[0] = [60, 0, 0], 1
    assert softmax(logits[0].astype(float)).max() == 1
    assert without < fit_temperature(logits, labels) < 2
    logits[0] = [1e30, 0, 0]
    with pytest.raises(NotFitted, match="equal probabilities have the lowest loss"):
        fit_temperature(logits, labels)
