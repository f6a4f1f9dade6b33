"""FixRes (arXiv:1906.06423): a network may score better on images larger than those that it was trained on.

Random crops show things larger than whole images do. A larger image makes up for that, once, after the training.
"""

import copy
import logging
from typing import Any

import datasets
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.images.processor import ImageProcessor, input_size, set_input_size
from pipeline.models import resolution
from pipeline.models.checkpoint import is_timm
from pipeline.models.classifier import ImageClassifier

logger = logging.getLogger(__name__)

_LARGER = 8 / 7  # 256 pixels for a network trained on 224; 4/3 scored lower on ten of twelve networks tried here


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
    """Return network and processor for images of the size of training, or of 8/7 of it if those score better.

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
    larger = round(_LARGER * side / patch) * patch
    try:
        candidate = _at(model, processor, larger)
    except PipelineError:
        logger.warning("--fixres: this %s takes no images of %d pixels: %d stay", model.config.model_type, larger, side)
        return model, processor
    before, after = (
        _accuracy(ImageClassifier(network.eval(), its), split, **loading)
        for network, its in ((model, processor), candidate)
    )
    kept = larger if after > before else side
    logger.info(
        "FixRes: validation accuracy %.2f %% at %d pixels, %.2f %% at %d; %d is kept",
        100 * before, side, 100 * after, larger, kept,
    )  # fmt: skip
    return candidate if after > before else (model, processor)


def _at(model: PreTrainedModel, processor: ImageProcessor, side: int) -> tuple[PreTrainedModel, ImageProcessor]:
    device, on_cpu = model.device, copy.deepcopy(model).cpu()
    network: Any = resolution.resize(on_cpu, side)
    processor = copy.deepcopy(processor)
    set_input_size(processor, side)
    return network.to(device), processor


def _accuracy(classifier: ImageClassifier, split: datasets.Dataset, **loading: Any) -> float:
    predictions = scoring.score(classifier, split, name="validation", **loading)
    return float((predictions.logits.argmax(axis=1) == predictions.labels).mean())
