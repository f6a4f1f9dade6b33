"""Under `--auto`, propose a linear probe on the frozen features, also at resolutions above the training's.

It costs seconds, and with few images it can be more accurate than fine-tuning. So `--auto` never saves a model that is
less accurate on validation than the probes that were affordable.
"""

import dataclasses
import logging
from typing import Any

import datasets
import numpy as np

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError
from pipeline.evaluation.scoring import score
from pipeline.images.decode import image_size
from pipeline.images.depth import KEY, set_depth
from pipeline.models import resolution
from pipeline.models.build import build_classifier
from pipeline.models.checkpoint import is_timm
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.performance import flops
from pipeline.performance.matmul import matmul_rate
from pipeline.probing.baseline import training_features, training_labels
from pipeline.probing.linear import LinearProbe, fit_probe, install_head
from pipeline.selection.improve import Proposal

logger = logging.getLogger(__name__)

_RATIOS = (1.5, 2.0)  # higher resolutions that are tried, relative to that of the settings
_MAX_SECONDS = 120.0  # expected time of the forward passes above which a higher resolution is not tried
_MFU = 0.5  # fraction of the matmul rate that the forward passes reach (tests/benchmarks/README.md)
_SAMPLES = 64  # images whose size is read


def propose(
    classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings, *, size_is_fixed: bool
) -> Proposal | None:
    """Propose the linear probe of the checkpoint that is the most accurate one on validation; None without any.

    Args:
        classifier: The trained model.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        settings: All settings of the training.
        size_is_fixed: Whether only the resolution of the settings may be used.

    Raises:
        BadImageError: If an image cannot be read.
    """
    higher = [] if size_is_fixed else distributed.broadcast(_higher_sizes(classifier, splits, settings))
    # With --strategy head, the trained model is the probe at the resolution of the settings.
    own = [] if settings.strategy.strategy == "head" else [settings.model.image_size]
    if not own + higher:
        return None
    before = score(classifier, splits["validation"], LoaderOptions.of(settings.trainer), name="validation").accuracy
    best: tuple[ImageClassifier, LinearProbe] | None = None
    for size in own + higher:
        try:
            network = _build(classifier, splits, settings, size)
            probe = _fit(network, splits, settings)
        except PipelineError as error:  # the family does not support the size, or has no linear head
            logger.info("auto: no linear probe%s: %s", f" at {size} px" if size else "", error)
            continue
        if best is None or probe.chosen["accuracy"] > best[1].chosen["accuracy"]:
            best = network, probe
    if best is None:
        return None
    network, probe = best
    pixels, after = network.input_size[0], probe.chosen["accuracy"]

    def accept() -> ImageClassifier:
        install_head(network, probe)
        return network

    results: dict[str, Any] = {
        "auto_probe_eval_accuracy": after,
        "auto_probe_image_size": pixels,
        "auto_trained_eval_accuracy": before,
    }
    return Proposal(f"a linear probe on frozen features at {pixels} px", before, after, accept, results)


def _build(
    trained: ImageClassifier, splits: datasets.DatasetDict, settings: Settings, size: int | None
) -> ImageClassifier:
    names = splits["train"].features["label"].names
    model = dataclasses.replace(settings.model, image_size=size)
    classifier = build_classifier(model, class_names=names, seed=settings.trainer.seed)
    set_depth(classifier.processor, getattr(trained.processor, KEY, None))
    return classifier


def _fit(classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings) -> LinearProbe:
    features = training_features(classifier, splits, settings.trainer)
    train_y, valid_y, num_classes = training_labels(splits)
    fitted = None
    if distributed.is_main_process():
        fitted = fit_probe(features["train"].head, train_y, features["validation"].head, valid_y, num_classes)
    probe = distributed.broadcast(fitted)
    logger.info(
        "auto: a linear probe at %d px reaches %.2f%% on validation",
        classifier.input_size[0],
        100 * probe.chosen["accuracy"],
    )
    return probe


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
