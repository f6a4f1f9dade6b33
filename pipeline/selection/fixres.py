"""FixRes (arXiv:1906.06423): a network may score better at a higher resolution than that of its training.

Random crops make objects look larger than they do in complete images. A higher test resolution compensates for it. What
the head reads changes with the resolution, so the paper fits it again; with `--refit_head`, we do that too.
"""

import copy
import logging
from typing import Any

import datasets

from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.errors import PipelineError
from pipeline.images.processor import set_input_size
from pipeline.models import resolution
from pipeline.models.checkpoint import family, is_timm
from pipeline.models.classifier import ImageClassifier
from pipeline.probing import linear
from pipeline.probing.baseline import training_features
from pipeline.selection import refit_head
from pipeline.selection.improve import Proposal, validation_accuracy

logger = logging.getLogger(__name__)

_RATIO = 8 / 7  # 256 px for a network trained at 224 px; a ratio of 4/3 scored lower on ten of twelve networks


def check(classifier: ImageClassifier) -> None:
    """Reject a network with a fixed resolution.

    Raises:
        PipelineError: If the network is a timm model, or its images are not square.
    """
    height, width = classifier.input_size
    if is_timm(classifier.model.config) or height != width:
        raise PipelineError("--fixres does not support timm models and images that are not square: remove --fixres")


def propose(classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings) -> Proposal | None:
    """Propose the network at 8/7 of its resolution; None, with a log line, if it does not support that.

    Raises:
        PipelineError: If an image cannot be read, or, with `--refit_head`, if the head is not a single linear layer.
    """
    size = classifier.input_size[0]
    patch = resolution.patch_size(classifier.model.config)
    larger = round(_RATIO * size / patch) * patch
    try:
        candidate = _at_resolution(classifier, larger)
    except PipelineError:
        logger.log(
            logging.WARNING if "fixres" in settings.given else logging.INFO,  # --auto chooses it too
            "--fixres: %s does not support %d px input; keeping %d px",
            family(classifier.model.config),
            larger,
            size,
        )
        return None
    found = {"train_image_size": size}
    if settings.selection.refit_head:
        return _with_another_head(classifier, candidate, splits, settings, found)
    before, after = (validation_accuracy(each, splits, settings) for each in (classifier, candidate))
    return Proposal(f"{larger} px input", before, after, lambda: candidate, found)


def _with_another_head(
    present: ImageClassifier,
    candidate: ImageClassifier,
    splits: datasets.DatasetDict,
    settings: Settings,
    found: dict[str, Any],
) -> Proposal:
    """Propose the candidate with a refitted head, and complete what was found."""
    probe, _ = refit_head.fit(candidate, splits, settings)
    linear.install_head(candidate, probe)
    features = training_features(present, splits, settings.trainer)  # from the cache, and in the same precision
    before = linear.head_accuracy(present, features["validation"].head, read_integers(splits["validation"]))
    if (after := probe.chosen["accuracy"]) > before:
        found |= refit_head.describe(probe)
    description = f"{candidate.input_size[0]} px input and a head refitted for it"
    return Proposal(description, before, after, lambda: candidate, found)


def _at_resolution(classifier: ImageClassifier, size: int) -> ImageClassifier:
    device, on_cpu = classifier.model.device, copy.deepcopy(classifier.model).cpu()
    network: Any = resolution.resize(on_cpu, size)
    processor = copy.deepcopy(classifier.processor)
    set_input_size(processor, size)
    return ImageClassifier(network.to(device), processor)
