"""What a saved model knows about its confidence: temperature, prediction sets, abstention, images unlike the training.

`evaluation.uncertainty` fits it on validation. This file applies it, and stores it next to the model: the numbers in
`uncertainty.safetensors`, and what they mean in an entry of config.json, which transformers ignores. NumPy only.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.special import softmax

from pipeline.errors import PipelineError
from pipeline.runs.files import atomic_write, read_json, write_json
from pipeline.runs.folder import UNCERTAINTY

logger = logging.getLogger(__name__)

Floats = NDArray[np.floating]

KEY = "uncertainty"
"""Of the entry in config.json."""
_CHUNK = 1024  # images
_SCALARS = ("temperature", "lac_threshold", "aps_threshold", "abstain_threshold")


@dataclass(frozen=True)
class OutOfDistribution:
    """The distance of an image to the training images, in the features that the head of the network reads.

    It is the smallest squared Mahalanobis distance to the mean of a class, with one covariance for all classes (Lee et
    al. 2018, arXiv:1807.03888). With `normalize` it is Mahalanobis++: each feature vector is scaled to length 1 first
    (Mueller and Hein 2025, arXiv:2505.18032).

    Attributes:
        normalize: Whether feature vectors are scaled to length 1.
        center: Mean feature vector, shape (width,).
        whitening: Maps centered features to features whose covariance within the classes is the identity, shape
            (width, width).
        means: Whitened mean of each class that has training images, shape (classes, width).
        threshold: An image with a higher score is unknown.
    """

    normalize: bool
    center: NDArray[np.float32]
    whitening: NDArray[np.float32]
    means: NDArray[np.float32]
    threshold: float = float("inf")

    def scores(self, features: Floats) -> NDArray[np.float32]:
        """Return the score of each image; higher is less like the training images.

        Args:
            features: What the head of the network reads, shape (images, width).
        """
        whitening, means = self.whitening.astype(np.float64), self.means.astype(np.float64)
        lengths = (means**2).sum(axis=1)
        scores = np.empty(len(features), dtype=np.float32)
        for start in range(0, len(features), _CHUNK):
            rows = (prepare(features[start : start + _CHUNK], normalize=self.normalize) - self.center) @ whitening
            nearest = (lengths - 2 * rows @ means.T).min(axis=1) + (rows**2).sum(axis=1)
            scores[start : start + _CHUNK] = np.maximum(nearest, 0.0)
        return scores

    @property
    def method(self) -> str:
        """Name of the method."""
        return "Mahalanobis++" if self.normalize else "Mahalanobis"


@dataclass(frozen=True)
class Uncertainty:
    """What was fitted on the validation images. A part that could not be fitted is None.

    Attributes:
        coverage: Fraction of the images whose prediction set is meant to contain the true class.
        abstain_precision: Fraction of the answers that is meant to be correct.
        images: Number of validation images.
        temperature: The logits are divided by it.
        lac_threshold: A class is in the LAC set if 1 minus its probability is at most this number.
        aps_threshold: A class is in the APS set if the more likely classes have at most this probability in total.
        abstain_threshold: The model answers if the probability of the predicted class is at least this number.
        ood: The score of images unlike the training images.
    """

    coverage: float
    abstain_precision: float
    images: int
    temperature: float | None = None
    lac_threshold: float | None = None
    aps_threshold: float | None = None
    abstain_threshold: float | None = None
    ood: OutOfDistribution | None = None

    def __bool__(self) -> bool:
        """Whether any part was fitted."""
        return self.ood is not None or any(getattr(self, name) is not None for name in _SCALARS)

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return the calibrated probabilities (images, classes); those of the network if no temperature is stored."""
        return np.asarray(softmax(logits.astype(np.float64) / (self.temperature or 1.0), axis=1))

    def lac_sets(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each class is in the LAC set (Sadinle et al. 2019). A set can be empty."""
        assert self.lac_threshold is not None
        return np.asarray(1 - probabilities <= self.lac_threshold)

    def aps_sets(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each class is in the APS set (Romano et al. 2020). It contains the predicted class."""
        assert self.aps_threshold is not None
        return np.asarray(aps_scores(probabilities) <= self.aps_threshold)

    def write(self, folder: Path) -> None:
        """Store it next to a saved model; remove the stored one if no part was fitted.

        Raises:
            PipelineError: If a file cannot be written.
        """
        if not self:
            (folder / UNCERTAINTY).unlink(missing_ok=True)
            return
        arrays: dict[str, NDArray[Any]] = {
            name: np.array(value) for name in _SCALARS if (value := getattr(self, name)) is not None
        }
        entry = {"file": UNCERTAINTY, "coverage": self.coverage, "abstain_precision": self.abstain_precision,
                 "images": self.images}  # fmt: skip
        if self.ood is not None:
            arrays |= {"ood_threshold": np.array(self.ood.threshold), "ood_center": self.ood.center}
            arrays |= {"ood_whitening": self.ood.whitening, "ood_means": self.ood.means}
            entry["ood_method"] = self.ood.method
        with atomic_write(folder / UNCERTAINTY) as temporary:
            temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
        write_json(folder / "config.json", read_json(folder / "config.json") | {KEY: entry})

    @classmethod
    def read(cls, folder: Path, *, name: str, classes: int) -> "Uncertainty | None":
        """Read what `write` stored; None if there is nothing.

        Args:
            folder: Folder of the model.
            name: Name of the model as the user gave it, for the messages.
            classes: Number of its classes.

        Raises:
            PipelineError: If the file is damaged or belongs to another model.
        """
        entry = read_json(folder / "config.json").get(KEY)
        if not entry:
            return None
        if not (folder / UNCERTAINTY).is_file():
            logger.warning("%s has no %s; predicting without calibration and prediction sets", name, UNCERTAINTY)
            return None
        try:
            arrays = load_file(folder / UNCERTAINTY)
            scalars = {key: arrays[key].item() if key in arrays else None for key in _SCALARS}
            ood = _read_ood(entry, arrays, classes=classes) if "ood_method" in entry else None
            return cls(entry["coverage"], entry["abstain_precision"], entry["images"], ood=ood, **scalars)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise PipelineError(
                f"{folder / UNCERTAINTY} cannot be read ({error}): copy it again, or delete it to predict without it"
            ) from error


def _read_ood(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, classes: int) -> OutOfDistribution:
    center, whitening, means = (arrays[f"ood_{part}"] for part in ("center", "whitening", "means"))
    if whitening.shape != (len(center), len(center)) or means.shape[1:] != center.shape or len(means) > classes:
        raise ValueError("it is that of another model")
    normalize = {"Mahalanobis": False, "Mahalanobis++": True}[entry["ood_method"]]
    return OutOfDistribution(normalize, center, whitening, means, arrays["ood_threshold"].item())


def prepare(features: Floats, *, normalize: bool) -> NDArray[np.float64]:
    """Return features in double precision, scaled to length 1 if asked for."""
    rows = features.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) if normalize else rows


def aps_scores(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the total probability of the classes that are more likely than each class, shape (images, classes).

    Of equally likely classes the first one counts as more likely. The most likely class has the score 0.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    before = np.zeros_like(ranked)
    np.cumsum(ranked[:, :-1], axis=1, out=before[:, 1:])
    scores = np.empty_like(ranked)
    np.put_along_axis(scores, order, before, axis=1)
    return scores
