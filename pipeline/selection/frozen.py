"""Linear probes and nearest neighbors on frozen features, at the resolution of the checkpoint and at higher ones.

They cost seconds, and with few images one of them can be more accurate than fine-tuning. So `--auto` fits them before
training, where they say what is reachable and whether resolution pays; and it never saves a model that is less accurate
on validation than the best of them.
"""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.data.report import LoadedSplits
from pipeline.errors import PipelineError
from pipeline.images.decode import image_size
from pipeline.images.depth import set_depth
from pipeline.models import resolution
from pipeline.models.build import build_classifier
from pipeline.models.checkpoint import is_timm
from pipeline.models.classifier import ImageClassifier
from pipeline.performance import flops
from pipeline.performance.matmul import matmul_rate
from pipeline.probing.baseline import fit_training_probe, training_features, training_neighbors
from pipeline.probing.linear import LinearProbe, install_head
from pipeline.selection.improve import Proposal, validation_accuracy

logger = logging.getLogger(__name__)

_RATIOS = (1.5, 2.0)  # higher resolutions that are tried, relative to that of the settings
_MAX_SECONDS = 120.0  # expected time of the forward passes above which a higher resolution is not tried
_MFU = 0.5  # fraction of the matmul rate that the forward passes reach (tests/benchmarks/README.md)
_SAMPLES = 64  # images whose size is read


@dataclass(frozen=True)
class FrozenProbe:
    """A linear probe, and nearest neighbors, on the frozen features of the checkpoint at one resolution.

    Attributes:
        image_size: Resolution in pixels.
        requested: The value of `--image_size` for it; None for the checkpoint's own resolution.
        probe: The probe, with its accuracy on validation.
        neighbors: The best number of nearest neighbors, and its accuracy on validation.
        correct: Whether the probe classifies each validation image correctly.
    """

    image_size: int
    requested: int | None
    probe: LinearProbe
    neighbors: tuple[int, float]
    correct: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """Accuracy of the probe on validation."""
        return self.probe.chosen["accuracy"]


def fit_probes(splits: LoadedSplits, settings: Settings, *, only_higher: bool = False) -> list[FrozenProbe]:
    """Fit a linear probe at the resolution of the checkpoint, and at affordable higher ones. All ranks must call it.

    If the user gave `--image_size`, only that resolution is used. Features are cached on disk, so a second call only
    fits the probes.

    Args:
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        settings: Model, precision, batch size and data workers.
        only_higher: Whether the first of these resolutions is skipped.

    Returns:
        One probe for each resolution, ascending. Empty if the head of the network is not linear.

    Raises:
        BadImageError: If an image cannot be read.
    """
    found: list[FrozenProbe] = []
    size_is_fixed = "image_size" in settings.given  # otherwise, the settings may state one that --auto chose
    sizes = [settings.model.image_size if size_is_fixed else None]
    for place, size in enumerate(sizes):  # the higher ones are appended when the network is known
        try:
            classifier = build(splits, settings, size)
            if not place and not size_is_fixed:
                sizes += distributed.broadcast(_higher_sizes(classifier, splits, settings))
            if place or not only_higher:
                found.append(_fit(classifier, size, splits, settings))
        except PipelineError as error:  # the family does not support the size, or has no linear head
            logger.info("auto: no linear probe%s: %s", f" at {size} px" if size else "", error)
    return found


def propose(classifier: ImageClassifier, splits: LoadedSplits, settings: Settings) -> Proposal | None:
    """Propose the linear probe of the checkpoint that is the most accurate one on validation; None without any.

    Args:
        classifier: The trained model.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        settings: All settings of the training.

    Raises:
        BadImageError: If an image cannot be read.
    """
    # With --strategy head, the trained model is the probe at the resolution of the settings.
    is_probe = settings.strategy.strategy == "head"
    if not (probes := fit_probes(splits, settings, only_higher=is_probe)):
        return None
    before = validation_accuracy(classifier, splits, settings)
    best = max(probes, key=lambda each: each.accuracy)
    nearest = max(probes, key=lambda each: each.neighbors[1])

    def accept() -> ImageClassifier:
        network = build(splits, settings, best.requested)
        install_head(network, best.probe)
        return network

    results: dict[str, Any] = {
        "auto_probe_eval_accuracy": best.accuracy,
        "auto_probe_image_size": best.image_size,
        "auto_trained_eval_accuracy": before,
        "auto_knn_eval_accuracy": nearest.neighbors[1],
        "auto_knn_k": nearest.neighbors[0],
        "auto_knn_image_size": nearest.image_size,
    }
    description = f"a linear probe on frozen features at {best.image_size} px"
    return Proposal(description, before, best.accuracy, accept, results)


def build(splits: LoadedSplits, settings: Settings, size: int | None) -> ImageClassifier:
    """Return the checkpoint with an untrained head, at a resolution in pixels or at its own."""
    names = splits["train"].features["label"].names
    model = dataclasses.replace(settings.model, image_size=size)
    classifier = build_classifier(model, class_names=names, seed=settings.trainer.seed)
    set_depth(classifier.processor, splits.grayscale_bits)
    return classifier


def _fit(
    classifier: ImageClassifier, size: int | None, splits: datasets.DatasetDict, settings: Settings
) -> FrozenProbe:
    features = training_features(classifier, splits, settings.trainer)
    probe, neighbors = fit_training_probe(features, splits), training_neighbors(features, splits)
    logger.info(
        "auto: a linear probe at %d px reaches %.2f%% on validation, %d nearest neighbors %.2f%%",
        classifier.input_size[0],
        100 * probe.chosen["accuracy"],
        neighbors[0],
        100 * neighbors[1],
    )
    correct = probe.logits(features["validation"].head).argmax(axis=1) == read_integers(splits["validation"])
    return FrozenProbe(classifier.input_size[0], size, probe, neighbors, correct)


def _higher_sizes(classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings) -> list[int]:
    """Return the higher resolutions that the network supports, the images fill, and the machine can afford."""
    config, (height, width) = classifier.model.config, classifier.input_size
    if is_timm(config) or height != width:
        return []
    patch = max(resolution.patch_size(config), 1)
    shorter_side = _median_shorter_side(splits["train"])
    images = len(splits["train"]) + len(splits["validation"])
    seconds = images * flops.forward_flops(classifier.model, (height, width)) / _MFU
    seconds /= matmul_rate(settings.trainer.device, settings.trainer.precision) * distributed.world_size()
    sizes = [round(ratio * height / patch) * patch for ratio in _RATIOS]
    return [size for size in sizes if size <= shorter_side and seconds * (size / height) ** 2 <= _MAX_SECONDS]


def _median_shorter_side(train: datasets.Dataset) -> float:
    rows = np.linspace(0, len(train) - 1, min(_SAMPLES, len(train))).astype(int)
    return float(np.median([min(image_size(train[int(row)]["image"])) for row in rows]))
