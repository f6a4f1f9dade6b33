"""The configuration of a backbone -> that of an image classifier, or why it is unsupported."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig

from pipeline.errors import PipelineError
from pipeline.models.pooled import stock
from pipeline.models.pooled.network import PooledConfig, backbone_class, pool

# Families whose authors publish linear probes on the class token and the mean of the patch tokens. The pooled output
# of their networks is the class token alone.
_CLASS_TOKEN_AND_PATCHES = {"dinov3_vit"}

_MAX_PREFIX_TOKENS = 16  # class and register tokens; the positions of more tokens than that are unknown

_PART_NAMES = {r"^vision_model\.": "backbone."}  # of the weights of the image part of a model of images and texts


def as_classifier(config: PreTrainedConfig, *, name: str) -> PreTrainedConfig:
    """Return the configuration of the image classifier for a backbone. The weights are not read.

    It is one of transformers, if one computes the same, or the backbone with a pooled head.

    Args:
        config: Configuration of a backbone, or of a model of images and texts, whose image part is used.
        name: Name of the model as the user gave it, for the messages.

    Raises:
        PipelineError: If the model does not turn images into features.
    """
    return stock.as_stock_classifier(config) or _with_pooled_head(config, name)


def renamed_weights(saved: str, config: PreTrainedConfig) -> Mapping[str, str]:
    """Return names of weights in a checkpoint -> names in the classifier, as regular expressions.

    Args:
        saved: Model type of the checkpoint.
        config: Configuration of the classifier.
    """
    if saved == config.model_type:
        return {}
    return _PART_NAMES if isinstance(config, PooledConfig) else stock.renamed_weights(saved)


def _with_pooled_head(config: PreTrainedConfig, name: str) -> PooledConfig:
    """Return the configuration of a backbone with a pooled head.

    The backbone runs once without memory, which shows what it returns.

    Raises:
        PipelineError: If the model does not turn images into features.
    """
    vision = _vision_part(config)
    problem = f"{name} has the model type {config.model_type}, for which transformers has no image classifier"
    if type(vision) not in MODEL_MAPPING:
        raise PipelineError(f"{problem} and no backbone: use another model")
    network = backbone_class(vision)
    if (reads := network.main_input_name) != "pixel_values":
        raise PipelineError(f"{problem}; its main input is {reads}, not pixel_values: use a vision model")
    if hasattr(vision, "num_queries"):
        raise PipelineError(f"{problem}; it detects objects and returns no features of an image: use another model")
    pooled = PooledConfig(vision_config=copy.deepcopy(vision))
    size = _image_size(vision)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), torch.no_grad():
            outputs = network(copy.deepcopy(pooled.vision_config)).eval()(pixel_values=torch.zeros(2, 3, *size))
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PipelineError(
            f"{problem}; its backbone cannot be run on {size[0]}x{size[1]} images alone ({reason}): use another model"
        ) from error
    if not (pooling := _pooling(vision, outputs, size)):
        raise PipelineError(
            f"{problem}; its backbone returns no pooled vector, no tokens (batch, tokens, channels) and no feature map "
            "(batch, channels, rows, columns): use another model"
        )
    pooled.pooling = pooling
    if pooling in ("class_token_and_patches", "patches"):
        extra = outputs.last_hidden_state.shape[1] - _num_patches(vision, size)
        pooled.num_prefix_tokens = extra if 0 < extra <= _MAX_PREFIX_TOKENS else 0
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


def _pooling(vision: Any, outputs: Any, size: tuple[int, int]) -> str:
    """Return what the head should read, a key of `POOLINGS`, or an empty string if the backbone returns no features.

    Args:
        vision: Configuration of the backbone.
        outputs: What the backbone returned for two images.
        size: Height and width of these images.
    """

    def shape(name: str) -> tuple[int, ...]:
        value = getattr(outputs, name, None)
        return tuple(value.shape) if isinstance(value, Tensor) and len(value) == 2 else ()

    hidden, pooled = shape("last_hidden_state"), shape("pooler_output")
    if vision.model_type in _CLASS_TOKEN_AND_PATCHES:
        return "class_token_and_patches"
    if len(shape("summary")) == 2:
        return "summary"
    if len(pooled) == 2 or (len(pooled) == 4 and pooled[2:] == (1, 1)):
        return "pooler"
    if len(hidden) == 4 and abs(hidden[2] * size[1] - hidden[3] * size[0]) <= max(size):  # the channels come first
        return "feature_map"
    return "patches" if len(hidden) == 3 else ""
