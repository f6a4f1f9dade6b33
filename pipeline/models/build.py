"""Build an `ImageClassifier` for new classes from a checkpoint: new head, label names, resolution, image processor."""

import copy
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
from pipeline.images.processor import ensure_one_size, set_input_size
from pipeline.images.transforms import check_training_pixels
from pipeline.models import resolution
from pipeline.models.checkpoint import family, is_timm, read_config, read_model, read_processor
from pipeline.models.classifier import ImageClassifier
from pipeline.models.head import head_names
from pipeline.models.pooled.network import POOLINGS, PooledConfig

logger = logging.getLogger(__name__)


def build_classifier(args: ModelArguments, *, class_names: Sequence[str], seed: int) -> ImageClassifier:
    """Return a classifier in fp32 with one output for each class.

    Outputs of the checkpoint's head are kept, by class name, if its classes contain all of ours or ours contain all of
    its; otherwise the head is new. Every other weight must come from the checkpoint.

    Args:
        args: Which checkpoint, and what to change in it.
        class_names: Names of the classes, in the order of the logits.
        seed: Random seed of new weights.

    Raises:
        PipelineError: If the checkpoint is missing, is not an image classifier, lacks weights, or does not support
            `--image_size`.
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
    if isinstance(model.config, PooledConfig):
        logger.info(
            "transformers has no image classifier for %s: the head reads %s; the saved model loads with vit-pipeline, "
            "or with transformers after `from pipeline import PooledForImageClassification`",
            family(model.config),
            POOLINGS[model.config.pooling],
        )
    logger.info(
        "%s: %s%s, %.1f M parameters, %s for %d classes",
        type(model).__name__,
        name,
        " from scratch" if args.from_scratch else "",
        sum(p.numel() for p in model.parameters()) / 1e6,
        head,
        len(class_names),
    )
    return ImageClassifier(model, processor)


def _set_labels(config: PreTrainedConfig, class_names: Sequence[str]) -> None:
    """Store the class names in a config, and the loss that single-label classification needs."""
    config.num_labels = len(class_names)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: i for i, name in enumerate(class_names)}
    config.problem_type = "single_label_classification"  # otherwise the dtype of the first labels decides, and is saved
    if is_timm(config):
        config.label_names = list(class_names)  # a timm config is saved with these, not with id2label
    # The DeiT and LeViT classes with a distillation head have no loss; the plain classes have the same backbone.
    config.architectures = [a for a in config.architectures or [] if not a.endswith("WithTeacher")]


def _from_scratch(config: PreTrainedConfig, image_size: int | None, class_names: Sequence[str]) -> PreTrainedModel:
    """Return the architecture with random weights."""
    _set_labels(config, class_names)
    if image_size is not None and hasattr(resolution.vision_config(config), "image_size"):
        resolution.vision_config(config).image_size = image_size
    model: PreTrainedModel = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    return model


def _from_checkpoint(
    folder: Path, config: PreTrainedConfig, class_names: Sequence[str], *, name: str
) -> tuple[PreTrainedModel, str]:
    """Return the model with the backbone of its checkpoint, and a description of its head."""
    original = copy.deepcopy(config)
    _set_labels(config, class_names)
    model, missing = read_model(folder, config, name=name)
    head = head_names(model)
    # A pooler that only the classifier has belongs to the head: BEiT's norm after its pre-training. A pooled head reads
    # the features of the checkpoint, and a random pooler would destroy them.
    poolers = {key for key in missing if ".pooler." in key and not isinstance(config, PooledConfig)}
    if lost := sorted(missing - head - poolers):
        raise PipelineError(
            f"{name} does not fit a {type(model).__name__}: it lacks {len(lost)} weights, first {lost[0]}; choose "
            "another --model_name_or_path, or add --from_scratch"
        )
    trained_classes = _class_names(original)
    if not missing and trained_classes == list(class_names):
        return model, "the checkpoint's head"
    if not missing & head:  # the same number of classes with other names: the old head would stay
        _initialize(model, head)
    smaller, larger = sorted([set(trained_classes), set(class_names)], key=len)
    if smaller and smaller <= larger:
        source, absent = read_model(folder, original, name=name)
        if not absent and head == head_names(source):
            kept = _copy_outputs(source, model, head, [trained_classes, class_names])
            return model, _describe_head(kept, len(class_names))
    return model, "new head and pooler" if poolers else "new head"


def _describe_head(kept: int, classes: int) -> str:
    return "the checkpoint's head" if kept == classes else f"the checkpoint's head for {kept} classes, a new one"


def _class_names(config: PreTrainedConfig) -> list[str]:
    names: dict[Any, str] = config.id2label or {}
    return [names.get(i, "") for i in range(len(names))]


def _copy_outputs(
    source: PreTrainedModel, model: PreTrainedModel, head: Collection[str], class_names: Sequence[Sequence[str]]
) -> int:
    """Copy the outputs of the classes that both models have, and return their number.

    Args:
        source: The model to copy from.
        model: The model to copy to.
        head: The weights of the head, which have one row for each class.
        class_names: The class names of the source and of the model.
    """
    old, new = class_names
    shared = [name for name in new if name in old]
    from_rows, to_rows = ([names.index(name) for name in shared] for names in (old, new))
    with torch.no_grad():
        for weight in head:
            model.get_parameter(weight)[to_rows] = source.get_parameter(weight)[from_rows]
    return len(shared)


def _initialize(model: PreTrainedModel, names: Collection[str]) -> None:
    """Initialize weights of a loaded model as a new model initializes them."""
    for name in names:
        # With this mark, `_init_weights` would keep a weight as it was loaded.
        vars(model.get_parameter(name)).pop("_is_hf_initialized", None)
    for layer in sorted({name.rpartition(".")[0] for name in names}):
        model.get_submodule(layer).apply(model._init_weights)
