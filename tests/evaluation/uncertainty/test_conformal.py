"""The prediction sets are those of MAPIE and of the formulas, and contain the true class as often as they say."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import betabinom
from sklearn.base import BaseEstimator, ClassifierMixin

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.conformal import conformal_quantile, true_scores
from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.evaluation.uncertainty.metrics import METHODS, set_sizes
from pipeline.models.uncertainty import Uncertainty, aps_scores
from tests.evaluation.uncertainty.made_predictions import made

EXTREMES = np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 0.5, 0.5, 0], [0.1, 0.2, 0.3, 0.4]])


def fit(predictions: Predictions, coverage: float) -> Uncertainty:
    unfitted = Uncertainty(coverage, 0.95, len(predictions.labels))
    lac, aps = (conformal_quantile(s, coverage) for s in true_scores(unfitted, predictions.logits, predictions.labels))
    return Uncertainty(coverage, 0.95, len(predictions.labels), lac_threshold=lac, aps_threshold=aps)


@given(st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_the_threshold_exists_from_the_number_of_images_that_the_error_states(images: int, coverage: float) -> None:
    scores = np.random.default_rng(images).permutation(images).astype(float)
    allowed = [k for k in range(1, images + 1) if k * 1000 >= (images + 1) * round(coverage * 1000)]
    if allowed:
        assert conformal_quantile(scores, coverage) == allowed[0] - 1
    else:
        needed = {0.5: 1, 0.8: 4, 0.9: 9, 0.95: 19, 0.99: 99}[coverage]
        assert images < needed
        with pytest.raises(NotFitted, match=f"at least {needed} validation images, not {images}"):
            conformal_quantile(scores, coverage)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coverage", [0.8, 0.95])
@pytest.mark.parametrize("classes", [2, 12])
def test_held_out_images_are_covered_within_the_exact_interval(method: str, coverage: float, classes: int) -> None:
    n, m, seeds = 300, 500, 40
    inside = 0
    for seed in range(seeds):
        validation, test = made(seed, n, classes, skill=2), made(seed + 1000, m, classes, skill=2)
        _, covered = set_sizes(fit(validation, coverage), test, method)
        # With scores that are all different, the number of covered images has this distribution.
        rank = np.ceil((n + 1) * coverage - 1e-9)
        inside += covered.sum() >= betabinom.ppf(0.025, m, rank, n + 1 - rank)
        if method == "lac":  # APS is conservative where the predicted class alone is enough
            assert covered.sum() <= betabinom.ppf(1 - 1e-6, m, rank, n + 1 - rank)
    assert inside >= 0.875 * seeds


@pytest.mark.parametrize("probabilities", EXTREMES)
def test_aps_scores_are_the_mass_of_more_likely_classes(probabilities: NDArray[np.float64]) -> None:
    expected = [
        sum(p for j, p in enumerate(probabilities) if p > own or (p == own and j < i))
        for i, own in enumerate(probabilities)
    ]
    assert aps_scores(probabilities[None])[0] == pytest.approx(expected, abs=1e-15)


def test_aps_sets_contain_the_predicted_class_and_lac_sets_can_be_empty() -> None:
    stored = Uncertainty(0.9, 0.95, 100, lac_threshold=0.2, aps_threshold=0.0)
    assert stored.aps_sets(EXTREMES).sum(axis=1).tolist() == [1, 1, 1, 1]
    assert stored.lac_sets(EXTREMES).sum(axis=1).tolist() == [1, 0, 0, 0]


def test_sets_grow_with_the_coverage() -> None:
    validation, test = made(3, 400, 8), made(4, 200, 8)
    for method in METHODS:
        sizes = [set_sizes(fit(validation, coverage), test, method)[0] for coverage in (0.6, 0.8, 0.9, 0.99)]
        assert all((fewer <= more).all() for fewer, more in itertools.pairwise(sizes))


class Fixed(ClassifierMixin, BaseEstimator):
    """A classifier whose input is the probabilities."""

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, x: object, y: object) -> "Fixed":  # noqa: ARG002
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.asarray(x.argmax(axis=1))


@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.97])
def test_lac_sets_are_those_of_mapie(coverage: float) -> None:
    mapie = pytest.importorskip("mapie.classification")
    validation, test = made(5, 250, 6), made(6, 300, 6)
    probabilities = [softmax(each.logits.astype(float), axis=1) for each in (validation, test)]
    oracle = mapie.SplitConformalClassifier(Fixed(6), confidence_level=coverage, conformity_score="lac", prefit=True)
    oracle.conformalize(probabilities[0], validation.labels)
    _, expected = oracle.predict_set(probabilities[1])
    np.testing.assert_array_equal(fit(validation, coverage).lac_sets(probabilities[1]), expected[:, :, 0])


def test_aps_sets_are_those_of_mapie_for_the_same_threshold() -> None:
    """MAPIE counts a random part of the true class for its threshold, but cuts the ranked classes in the same way."""
    mapie = pytest.importorskip("mapie.classification")
    validation, test = made(7, 400, 6), made(8, 300, 6)
    probabilities = [softmax(each.logits.astype(float), axis=1) for each in (validation, test)]
    oracle = mapie.SplitConformalClassifier(
        Fixed(6), confidence_level=0.9, conformity_score="aps", prefit=True, random_state=3
    )
    oracle.conformalize(probabilities[0], validation.labels)
    _, expected = oracle.predict_set(probabilities[1], conformity_score_params={"include_last_label": True})
    part = (1 - np.random.RandomState(3).uniform(size=400)) * probabilities[0][np.arange(400), validation.labels]
    scores = true_scores(Uncertainty(0.9, 0.95, 400), validation.logits, validation.labels)[1] + part
    stored = Uncertainty(0.9, 0.95, 400, aps_threshold=conformal_quantile(scores, 0.9))
    np.testing.assert_array_equal(stored.aps_sets(probabilities[1]), expected[:, :, 0])
