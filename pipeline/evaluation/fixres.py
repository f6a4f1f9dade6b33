"""FixRes (arXiv:1906.06423): a network may score better on images larger than those that it was trained on.

Random crops show things larger than whole images do. A larger image makes up for that, once, after the training.
"""

import copy
import logging
from typing import Any

import datasets
from transformers import PreTrainedModel

from pipeline.data.transforms import ImageProcessor, input_size
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.classifier import Classifier
from pipeline.models import resolution
from pipeline.models.checkpoint import is_timm
from pipeline.models.processor import set_input_size

logger = logging.getLogger(__name__)

_LARGER = (8 / 7, 9 / 7)  # 256 and 288 pixels for a network trained on 224, as the paper does


def check(model: PreTrainedModel, processor: ImageProcessor) -> None:
    """Refuse what has one size only, before the training.

    Raises:
        PipelineError: If the network is timm's, or its images are no squares.
    """
    height, width = input_size(processor)
    if is_timm(model.config) or height != width:
        raise PipelineError("--fixres: a timm model, or one whose images are no squares, has one size: leave it out")


def find_test_size(
    model: PreTrainedModel, processor: ImageProcessor, split: datasets.Dataset, **loading: Any
) -> tuple[PreTrainedModel, ImageProcessor]:
    """Return network and processor for the size of images, of three, that scores best; ties go to the smaller.

    A network that takes no larger images stays as it is, with a warning. All processes of a job must call it.

    Args:
        model: Trained.
        processor: Of the size that it was trained on.
        split: Validation, with columns `image`, `label` and `index`.
        loading: `batch_size`, `num_workers` and `progress` of `scoring.score`.

    Raises:
        BadImageError: If an image cannot be read.
    """
    side, patch = input_size(processor)[0], resolution.patch_size(model.config)
    candidates = [(model, processor)]
    for larger in sorted({round(ratio * side / patch) * patch for ratio in _LARGER} - {side}):
        try:
            candidates.append(_at(model, processor, larger))
        except PipelineError as error:
            logger.warning("--fixres tries no %d pixels: %s", larger, error)
    scores = [_accuracy(Classifier(network.eval(), its), split, **loading) for network, its in candidates]
    sides = [input_size(its)[0] for _, its in candidates]
    best = scores.index(max(scores))
    tried = ", ".join(f"{100 * score:.2f} % at {side}" for score, side in zip(scores, sides, strict=True))
    logger.info("FixRes: validation accuracy %s pixels; %d is kept", tried, sides[best])
    return candidates[best]


def _at(model: PreTrainedModel, processor: ImageProcessor, side: int) -> tuple[PreTrainedModel, ImageProcessor]:
    device, on_cpu = model.device, copy.deepcopy(model).cpu()
    network: Any = resolution.resize(on_cpu, side)
    processor = copy.deepcopy(processor)
    set_input_size(processor, side)
    return network.to(device), processor


def _accuracy(classifier: Classifier, split: datasets.Dataset, **loading: Any) -> float:
    predictions = scoring.score(classifier, split, name="validation", **loading)
    return float((predictions.logits.argmax(axis=1) == predictions.labels).mean())
