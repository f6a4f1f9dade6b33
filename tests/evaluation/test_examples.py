"""The images that the report shows are those that it says they are."""

import numpy as np
import pytest
from scipy.special import softmax

from pipeline.evaluation.examples import MAX_GALLERY, MAX_PAIRS, Scored
from pipeline.evaluation.predictions import Predictions
from tests.reporting.made_runs import random_predictions


@pytest.fixture(scope="module")
def scored() -> Scored:
    return Scored.of(random_predictions("test", 400, 9))


def test_confidence_is_the_probability_of_the_predicted_class(scored: Scored) -> None:
    probabilities = softmax(scored.predictions.logits.astype(np.float64), axis=1)
    assert scored.confidence == pytest.approx(probabilities[np.arange(400), scored.predicted])
    assert scored.correct.mean() == scored.predictions.accuracy


def test_galleries_hold_the_extreme_mistakes_and_hits(scored: Scored) -> None:
    mistakes, hits = scored.confident_mistakes(), scored.uncertain_hits()
    assert len(mistakes) == len(hits) == MAX_GALLERY
    assert not scored.correct[mistakes].any()
    assert scored.correct[hits].all()
    wrong, right = np.sort(scored.confidence[~scored.correct]), np.sort(scored.confidence[scored.correct])
    assert scored.confidence[mistakes].tolist() == wrong[::-1][:MAX_GALLERY].tolist()
    assert scored.confidence[hits].tolist() == right[:MAX_GALLERY].tolist()


def test_a_pair_shows_a_mistake_and_an_image_of_the_other_class(scored: Scored) -> None:
    labels = scored.predictions.labels
    assert len(scored.pairs()) == MAX_PAIRS
    for pair in scored.pairs():
        first, second = scored.examples_of(pair)
        assert (labels[first], scored.predicted[first]) == (pair.first, pair.second)
        assert second is not None
        assert labels[second] == pair.second
        assert scored.predicted[second] == (pair.first if pair.back else pair.second)


def test_each_class_has_an_image_and_all_shown_images_are_listed_once(scored: Scored) -> None:
    typical = scored.typical()
    assert list(typical) == list(range(9))
    assert all(scored.predictions.labels[row] == number for number, row in typical.items())
    rows = scored.shown_rows()
    assert len(rows) == len(set(rows))
    pairs = {row for pair in scored.pairs() for row in scored.examples_of(pair)}
    assert set(rows) == {*scored.confident_mistakes(), *scored.uncertain_hits(), *pairs, *typical.values()}


def test_a_split_with_one_image_and_a_pair_without_images_of_the_other_class() -> None:
    wrong = Scored.of(Predictions("test", ["a.png"], np.array([0]), np.array([[0.0, 1e6]], np.float32)))
    assert wrong.confidence.tolist() == [1.0]
    (pair,) = wrong.pairs()
    assert wrong.examples_of(pair) == (0, None)
    assert wrong.shown_rows() == [0]
