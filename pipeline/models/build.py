"""A checkpoint made ready for other classes: new head, label maps, resolution, and its image processor.

Files are found by `pipeline.hub` and read by `checkpoint`; sizes belong to `resolution` and `processor`.
"""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from pipeline import hub
from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.images.processor import ImageProcessor, ensure_one_size, set_input_size
from pipeline.images.transforms import check_training_pixels
from pipeline.models import resolution
from pipeline.models.checkpoint import is_timm, read_config, read_model, read_processor
from pipeline.models.head import head_names

logger = logging.getLogger(__name__)


def build_model(
    args: ModelArguments, *, class_names: Sequence[str], seed: int
) -> tuple[ImageProcessor, PreTrainedModel]:
    """The image processor and the network, in fp32, with one output for each class.

    The head is the checkpoint's own only where its classes are exactly these, in this order; else it is new.
    Every other weight must come from the checkpoint.

    Args:
        args: Which checkpoint, and what to change in it.
        class_names: Names of the classes, in label order.
        seed: Of the weights that are drawn.

    Raises:
        PipelineError: If the checkpoint is missing, is not for images, does not fit, or cannot take `--image_size`.
    """
    name = args.model_name_or_path
    folder = hub.find_model(name, revision=args.model_revision)
    config = read_config(folder, name=name)
    processor = read_processor(folder, name=name)
    if args.image_size is not None:
        resolution.check_image_size(config, args.image_size)
        set_input_size(processor, args.image_size)
    ensure_one_size(processor, name=name)
    check_training_pixels(processor, name=name)

    torch.manual_seed(seed)
    if args.from_scratch:
        model, head = _from_scratch(config, args.image_size, class_names), "random head"
    else:
        model, head = _from_checkpoint(folder, config, class_names, name=name)
        if args.image_size is not None:
            model = resolution.resize(model, args.image_size)
    if args.head_init == "zero":
        head = "zero head"
        for weight in head_names(model):
            nn.init.zeros_(model.get_parameter(weight))
    resolution.check_input(model, processor, name=name)
    logger.info(
        "%s: %s%s, %.1f M parameters, %s for %d classes",
        type(model).__name__,
        name,
        " from scratch" if args.from_scratch else "",
        sum(p.numel() for p in model.parameters()) / 1e6,
        head,
        len(class_names),
    )
    return processor, model


def _set_labels(config: PreTrainedConfig, class_names: Sequence[str]) -> None:
    """Put the classes into a config, and the loss that goes with them."""
    config.num_labels = len(class_names)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: i for i, name in enumerate(class_names)}
    config.problem_type = "single_label_classification"  # else the first batch of another type decides, and is saved
    if is_timm(config):
        config.label_names = list(class_names)  # what such a config is saved with: else the old names would stay
    # DeiT's and LeViT's classes with a head for a teacher's labels have no loss; the plain one takes their backbone.
    config.architectures = [a for a in config.architectures or [] if not a.endswith("WithTeacher")]


def _from_scratch(config: PreTrainedConfig, image_size: int | None, class_names: Sequence[str]) -> PreTrainedModel:
    """The architecture with random weights."""
    _set_labels(config, class_names)
    if image_size is not None and hasattr(resolution.vision_config(config), "image_size"):
        resolution.vision_config(config).image_size = image_size
    model: PreTrainedModel = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    return model


def _from_checkpoint(
    folder: Path, config: PreTrainedConfig, class_names: Sequence[str], *, name: str
) -> tuple[PreTrainedModel, str]:
    """The model with its checkpoint's backbone, and whose its head is."""
    trained_for: dict[Any, str] = config.id2label or {}
    _set_labels(config, class_names)
    model, absent = read_model(folder, config, name=name)
    head = head_names(model)
    # A pooler that only classification has is a part of the head: BEiT's norm after its pre-training.
    poolers = {key for key in absent if ".pooler." in key}
    if lost := sorted(absent - head - poolers):
        raise PipelineError(
            f"{name} does not fit a {type(model).__name__}: it lacks {len(lost)} weights, first {lost[0]}"
        )
    if not absent and [trained_for.get(i) for i in range(len(trained_for))] == list(class_names):
        return model, "the checkpoint's head"
    if not absent & head:  # as many classes, but others: the head of the old ones would stay
        _initialize(model, head)
    return model, "new head and pooler" if poolers else "new head"


def _initialize(model: PreTrainedModel, names: Collection[str]) -> None:
    """Initialise weights of a loaded model as a new model would."""
    for name in names:
        # With this mark, `_init_weights` leaves a weight as it was loaded.
        vars(model.get_parameter(name)).pop("_is_hf_initialized", None)
    for layer in sorted({name.rpartition(".")[0] for name in names}):
        model.get_submodule(layer).apply(model._init_weights)
