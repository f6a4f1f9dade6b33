"""Out-of-fold predictions find flipped labels, and know nothing about what was fitted on."""

import logging

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.evaluation.audit.labels import mean_suspicion
from pipeline.probing import out_of_fold
from pipeline.probing.out_of_fold import FOLDS, assign_folds, label_evidence, predict_out_of_fold


def clusters(per_class: int, classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, 2, (classes, 8))
    labels = np.repeat(np.arange(classes), per_class)
    return (centers[labels] + rng.normal(0, 0.7, (len(labels), 8))).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_flipped_labels_are_the_most_suspicious(classes: int) -> None:
    x, y = clusters(40, classes)
    given = y.copy()
    wrong = np.arange(0, len(y), 20)
    given[wrong] = (y[wrong] + 1) % classes
    found = label_evidence(x, given, classes, seed=0)
    assert found is not None
    assert average_precision_score(given != y, mean_suspicion([found])) > 0.9
    assert (found.likely[wrong] == y[wrong]).mean() > 0.8
    assert found.contradicts[wrong].mean() > 0.5


def test_probabilities_do_not_depend_on_the_own_label() -> None:
    x, y = clusters(3, 2, seed=1)
    x[0] = 50.0  # far from every other image: only its own label could make a probe certain of it
    given = predict_out_of_fold(x, y, 2, seed=0)[0]
    assert given.sum() == pytest.approx(1)
    random = np.random.default_rng(0)
    noise, labels = random.normal(size=(200, 8)).astype(np.float32), random.integers(0, 4, 200)
    predicted = predict_out_of_fold(noise, labels, 4, seed=0)
    assert (predicted.argmax(axis=1) == labels).mean() < 0.4  # fitted on itself, it would be near 1


def test_folds_are_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [10, 5, 2])
    fold = assign_folds(labels, seed=3)
    assert [np.max(np.bincount(fold[labels == c], minlength=FOLDS)) for c in range(3)] == [2, 1, 1]
    assert (fold == assign_folds(labels, seed=3)).all()
    assert (fold != assign_folds(labels, seed=4)).any()


def test_a_class_of_one_image_is_not_judged_and_this_is_said(caplog: pytest.LogCaptureFixture) -> None:
    x, y = clusters(10, 3)
    y = np.append(y, 3)
    x = np.concatenate([x, x[:1] + 0.1])
    with caplog.at_level(logging.INFO):
        found = label_evidence(x, y, 5, seed=0)
    assert found is not None
    assert np.isnan(found.trust[-1])
    assert not found.contradicts[-1]
    assert np.isfinite(found.trust[:-1]).all()
    assert "1 classes have one training image" in caplog.text


def test_all_images_equal_are_judged_by_the_frequencies_of_the_classes() -> None:
    predicted = predict_out_of_fold(np.ones((12, 4), dtype=np.float32), np.repeat([0, 1], [9, 3]), 2, seed=0)
    assert np.isfinite(predicted).all()
    assert (predicted[:, 0] > predicted[:, 1]).all()


def test_too_many_images_are_skipped_with_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(out_of_fold, "MAX_IMAGES", 10)
    x, y = clusters(6, 2)
    with caplog.at_level(logging.INFO):
        assert label_evidence(x, y, 2, seed=0) is None
    assert "12 training images are more than 10" in caplog.text
