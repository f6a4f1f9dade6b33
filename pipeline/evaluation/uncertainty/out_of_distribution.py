"""The score of images unlike the training images: Mahalanobis or Mahalanobis++, fitted on the features.

Which of the two is better depends on the network. Images of another kind are not available, so the choice uses
classes: a fifth of the classes is held out, the rest is fitted, and the scores have to separate validation images of
the held-out classes from those of the others (AUROC). This is repeated for each fifth. Mahalanobis++ is used unless
plain Mahalanobis is better by more than the standard error of the paired differences, because Mahalanobis++ was better
for most networks with real images of other kinds (Mueller and Hein 2025, arXiv:2505.18032).
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.uncertainty.conformal import conformal_quantile
from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.models.uncertainty import OutOfDistribution, prepare

KNOWN = 0.95
"""Fraction of validation images that are below the threshold."""
FOLDS = 5
MAX_IMAGES = 5_000
"""Training images that the choice uses; more would not change it."""

Array = NDArray[np.floating]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of a split.

    Attributes:
        features: What the head of the network reads, shape (images, width).
        labels: True classes, shape (images,).
    """

    features: Array
    labels: Labels

    def select(self, rows: NDArray[np.bool_]) -> "LabeledFeatures":
        """Return some of the rows."""
        return LabeledFeatures(self.features[rows], self.labels[rows])


def fit_out_of_distribution(train: LabeledFeatures, validation: LabeledFeatures) -> OutOfDistribution:
    """Return the score with its threshold: 95% of images like the validation images are below it.

    Raises:
        NotFitted: If there are fewer than 19 validation images, or fewer than two training images per class.
    """
    classes = len(np.unique(train.labels))
    if len(train.labels) < 2 * classes:
        raise NotFitted(f"it needs two training images per class, not {len(train.labels)} for {classes} classes")
    require_images(len(validation.labels))
    fitted = estimate(train, normalize=choose_normalization(train, validation))
    threshold = conformal_quantile(fitted.scores(validation.features), KNOWN)
    return dataclasses.replace(fitted, threshold=threshold)


def require_images(count: int) -> None:
    """Check that this number of validation images determines a threshold.

    Raises:
        NotFitted: If it does not.
    """
    conformal_quantile(np.zeros(count), KNOWN)


def estimate(train: LabeledFeatures, *, normalize: bool) -> OutOfDistribution:
    """Return the score without a threshold: class means, and one Ledoit-Wolf covariance within the classes.

    Raises:
        NotFitted: If the features do not differ within the classes.
    """
    rows = prepare(train.features, normalize=normalize)
    center = rows.mean(axis=0)
    rows -= center
    _, classes = np.unique(train.labels, return_inverse=True)
    order = np.argsort(classes, kind="stable")
    means = np.add.reduceat(rows[order], np.searchsorted(classes[order], np.arange(np.max(classes) + 1)))
    means /= np.bincount(classes)[:, None]
    covariance, _ = ledoit_wolf(rows - means[classes], assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    if not values[-1] > 0:
        raise NotFitted("the features do not differ within the classes")
    whitening = vectors / np.sqrt(np.maximum(values, 1e-10 * values[-1]))
    return OutOfDistribution(
        normalize,
        center.astype(np.float32),
        whitening.astype(np.float32),
        (means @ whitening).astype(np.float32),
    )


def choose_normalization(train: LabeledFeatures, validation: LabeledFeatures) -> bool:
    """Return whether Mahalanobis++ is used: unless plain Mahalanobis finds held-out classes better."""
    if len(train.labels) > MAX_IMAGES:
        kept = np.zeros(len(train.labels), dtype=bool)
        kept[np.random.default_rng(0).permutation(len(kept))[:MAX_IMAGES]] = True
        train = train.select(kept)
    gains = np.array(held_out_auroc(train, validation, normalize=False)) - np.array(
        held_out_auroc(train, validation, normalize=True)
    )
    if len(gains) < 2:
        return True
    return not gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains))


def held_out_auroc(train: LabeledFeatures, validation: LabeledFeatures, *, normalize: bool) -> list[float]:
    """Return how well the scores find validation images of classes that were not fitted, for each fold of classes."""
    classes = np.random.default_rng(0).permutation(np.unique(train.labels))
    found = []
    for held_out in np.array_split(classes, min(FOLDS, len(classes))):
        unknown = np.isin(validation.labels, held_out)
        kept = train.select(~np.isin(train.labels, held_out))
        if 0 < unknown.sum() < len(unknown) and len(np.unique(kept.labels)) < len(kept.labels):
            scores = estimate(kept, normalize=normalize).scores(validation.features)
            found.append(float(roc_auc_score(unknown, scores)))
    return found
