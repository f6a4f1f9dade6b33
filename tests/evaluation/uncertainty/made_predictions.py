"""Random predictions of some skill, with and without features."""

import numpy as np

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.out_of_distribution import LabeledFeatures


def made(seed: int, images: int, classes: int, *, skill: float = 2.0, split: str = "validation") -> Predictions:
    """Return predictions whose logits are noise, plus `skill` for the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (images, classes))
    logits[np.arange(images), labels] += skill
    return Predictions(split, [str(i) for i in range(images)], labels, logits.astype(np.float32))


def clusters(seed: int, images: int, *, classes: int = 5, width: int = 8, shift: float = 0.0) -> LabeledFeatures:
    """Return features around one center per class, with correlated noise; `shift` moves them away from the centers."""
    centers = np.random.default_rng(0).normal(0, 3, (classes, width)) + 5
    mix = np.random.default_rng(1).normal(0, 1, (width, width)) / width
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    noise = rng.normal(0, 1, (images, width)) @ (mix + 0.3 * np.eye(width))
    return LabeledFeatures((centers[labels] + noise + shift).astype(np.float32), labels)
