"""The configuration of a backbone -> that of the backbone with a pooled head, or why it is unsupported."""

import copy
import logging
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig

from pipeline.errors import PipelineError
from pipeline.models.pooled.network import PooledConfig, backbone_class, pool

logger = logging.getLogger(__name__)

# Families whose authors publish linear probes on the class token and the mean of the patch tokens. The pooled output
# of their networks is the class token alone.
_CLASS_TOKEN_AND_PATCHES = {"dinov3_vit"}

NAMES = {r"^vision_model\.": "backbone."}
"""Names of weights in a checkpoint of images and texts -> names in the network with the pooled head."""


def with_pooled_head(config: PreTrainedConfig, *, name: str) -> PooledConfig:
    """Return the configuration of a backbone with a pooled head. The weights are not read.

    The backbone runs once without memory, which shows what it returns.

    Args:
        config: Configuration of a backbone, or of a model of images and texts, whose image part is used.
        name: Name of the model as the user gave it, for the messages.

    Raises:
        PipelineError: If the model does not turn images into features.
    """
    vision = _vision_part(config)
    problem = f"{name} has the model type {config.model_type}, for which transformers has no image classifier"
    if type(vision) not in MODEL_MAPPING:
        raise PipelineError(f"{problem} and no backbone: use another model")
    network = backbone_class(vision)
    if (reads := network.main_input_name) != "pixel_values":
        raise PipelineError(f"{problem}; it reads {reads}, not images: use a vision model")
    pooled = PooledConfig(vision_config=copy.deepcopy(vision))
    size = _image_size(vision)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), torch.no_grad():
            outputs = network(copy.deepcopy(pooled.vision_config)).eval()(pixel_values=torch.zeros(2, 3, *size))
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PipelineError(
            f"{problem}; its backbone fails on a batch of {size[0]}x{size[1]} images ({reason}): use another model"
        ) from error
    pooled.pooling = _pooling(vision, outputs)
    if pooled.pooling in ("class_token_and_patches", "patches"):
        pooled.num_prefix_tokens = max(0, outputs.last_hidden_state.shape[1] - _num_patches(vision, size))
    if not pooled.pooling:
        raise PipelineError(f"{problem}; its backbone returns neither tokens nor a feature map: use another model")
    pooled.num_features = pool(outputs, pooled).shape[1]
    return pooled


def _vision_part(config: PreTrainedConfig) -> Any:
    """Return the part of a configuration that describes the backbone of images."""
    part = getattr(config, "vision_config", None)
    return part if isinstance(part, PreTrainedConfig) else config


def _image_size(vision: Any) -> tuple[int, int]:
    """Return height and width of the images of a backbone."""
    sides = getattr(vision, "image_size", None) or 224
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return height, width


def _num_patches(vision: Any, size: tuple[int, int]) -> int:
    """Return the number of patches of an image; 0 if the backbone has no patches."""
    patch = getattr(vision, "patch_size", None)
    if not patch:
        return 0
    height, width = (patch, patch) if isinstance(patch, int) else patch
    return int(size[0] // height) * int(size[1] // width)


def _pooling(vision: Any, outputs: Any) -> str:
    """Return what the head should read, a key of `POOLINGS`, or an empty text if there are no features."""

    def shape(name: str) -> tuple[int, ...]:
        value = getattr(outputs, name, None)
        return tuple(value.shape) if isinstance(value, Tensor) and len(value) == 2 else ()

    hidden, pooled = shape("last_hidden_state"), shape("pooler_output")
    if hasattr(outputs, "encoder_last_hidden_state"):  # a decoder's answers to queries, not features of the image
        return ""
    if vision.model_type in _CLASS_TOKEN_AND_PATCHES:
        return "class_token_and_patches"
    if len(shape("summary")) == 2:
        return "summary"
    if len(pooled) == 2 or (len(pooled) == 4 and pooled[2:] == (1, 1)):
        return "pooler"
    return {3: "patches", 4: "feature_map"}.get(len(hidden), "")
