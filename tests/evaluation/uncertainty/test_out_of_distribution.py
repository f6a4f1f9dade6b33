"""The scores are Mahalanobis distances; choice and threshold see images of the classes only."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.evaluation.uncertainty.out_of_distribution import (
    LabeledFeatures,
    choose_normalization,
    estimate,
    fit_out_of_distribution,
    held_out_auroc,
)
from tests.evaluation.uncertainty.made_predictions import clusters


@pytest.mark.parametrize("normalize", [False, True])
def test_the_scores_are_those_of_the_formula(normalize: bool) -> None:
    train, new = clusters(0, 200), clusters(1, 12, shift=1.0)
    rows, others = train.features.astype(float), new.features.astype(float)
    if normalize:
        rows, others = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, others))
    means = np.array([rows[train.labels == c].mean(axis=0) for c in range(5)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(rows - means[train.labels]).covariance_)
    expected = [min(mahalanobis(row, mean, precision) ** 2 for mean in means) for row in others]
    assert estimate(train, normalize=normalize).scores(new.features) == pytest.approx(expected, rel=1e-3)


def test_the_plain_scores_are_those_of_pytorch_ood() -> None:
    detectors = pytest.importorskip("pytorch_ood.detector.mahalanobis")
    train, new = clusters(2, 20_000), clusters(3, 100, shift=0.5)
    oracle = detectors.Mahalanobis(None).fit_features(torch.from_numpy(train.features), torch.from_numpy(train.labels))
    half_of_sums = oracle.predict_features(torch.from_numpy(new.features)).numpy()
    ours = estimate(train, normalize=False).scores(new.features)
    assert ours == pytest.approx(2 * len(train.labels) * half_of_sums, rel=0.02)  # shrinkage vanishes with 20,000 rows


def test_the_threshold_keeps_95_percent_of_images_like_those_of_validation() -> None:
    flagged = []
    for seed in range(20):
        fitted = fit_out_of_distribution(clusters(seed, 300), clusters(seed + 100, 199))
        flagged.append((fitted.scores(clusters(seed + 200, 1000).features) > fitted.threshold).mean())
    assert 0.03 < np.mean(flagged) < 0.07
    last = fit_out_of_distribution(clusters(19, 300), clusters(119, 199))
    assert (last.scores(-clusters(1, 200).features) > last.threshold).mean() > 0.95


def test_mahalanobis_is_chosen_where_only_the_length_shows_a_class() -> None:
    """All classes lie in the same direction, so normalized features cannot tell them apart."""

    def rings(seed: int, images: int) -> LabeledFeatures:
        rng = np.random.default_rng(seed)
        labels = np.arange(images) % 5
        rows = np.array([1, 1, 1, 1.0]) * (5 + 10 * labels)[:, None] + rng.normal(0, 0.5, (images, 4))
        return LabeledFeatures(rows.astype(np.float32), labels)

    train, validation = rings(0, 200), rings(1, 200)
    assert np.mean(held_out_auroc(train, validation, normalize=False)) > 0.95
    assert choose_normalization(train, validation) is False


def test_mahalanobis_plus_plus_is_chosen_where_lengths_are_noise() -> None:
    def rays(seed: int, images: int) -> LabeledFeatures:
        rng = np.random.default_rng(seed)
        labels = np.arange(images) % 5
        directions = np.eye(5, 6)[labels] + rng.normal(0, 0.05, (images, 6))
        return LabeledFeatures((directions * rng.lognormal(2, 1, (images, 1))).astype(np.float32), labels)

    train, validation = rays(0, 200), rays(1, 200)
    means = [np.mean(held_out_auroc(train, validation, normalize=each)) for each in (True, False)]
    assert means[0] > means[1]
    assert choose_normalization(train, validation) is True


def test_two_classes_and_a_class_without_training_images() -> None:
    two = fit_out_of_distribution(clusters(0, 60, classes=2), clusters(1, 40, classes=2))
    assert two.means.shape == (2, 8)
    train = clusters(0, 200).select(clusters(0, 200).labels != 3)
    fitted = fit_out_of_distribution(train, clusters(1, 100))
    assert fitted.means.shape == (4, 8)
    inside, outside = clusters(2, 100), clusters(3, 100, shift=4.0)
    scores = fitted.scores(np.concatenate([inside.features[inside.labels != 3], outside.features]))
    assert roc_auc_score(np.arange(len(scores)) >= 80, scores) > 0.95


def test_too_few_images_are_refused() -> None:
    with pytest.raises(NotFitted, match="at least 19 validation images, not 18"):
        fit_out_of_distribution(clusters(0, 100), clusters(1, 18))
    with pytest.raises(NotFitted, match="two training images per class, not 9 for 5 classes"):
        fit_out_of_distribution(clusters(0, 9), clusters(1, 50))
    flat = LabeledFeatures(np.ones((20, 4), np.float32), np.arange(20) % 5)
    with pytest.raises(NotFitted, match="the features do not differ within the classes"):
        fit_out_of_distribution(flat, flat)
