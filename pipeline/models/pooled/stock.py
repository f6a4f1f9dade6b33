"""Backbones that an image classifier of transformers computes too: its configuration, and its names of the weights.

A model that is built this way loads with `transformers.pipeline` like any other one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import ConvNextConfig, PreTrainedConfig, ViTConfig


@dataclass(frozen=True)
class Stock:
    """The image classifier of transformers for a backbone.

    Attributes:
        convert: The configuration of the backbone -> that of the classifier, or None if it computes something else.
        names: Names of the weights of the backbone -> names in the classifier, as regular expressions.
    """

    convert: Callable[[Any], PreTrainedConfig | None]
    names: Mapping[str, str]


def _convnext(config: Any) -> PreTrainedConfig | None:
    """Return the ConvNeXt that computes the pooled output of a DINOv3 ConvNeXt: the norm of the mean feature map."""
    if config.layer_norm_eps != 1e-6 or config.layer_scale_init_value <= 0:  # what ConvNeXt has, or drops
        return None
    shared = ("num_channels", "hidden_sizes", "depths", "hidden_act", "initializer_range", "layer_norm_eps",
              "layer_scale_init_value", "drop_path_rate", "image_size")  # fmt: skip
    return ConvNextConfig(**{name: getattr(config, name) for name in shared}, num_stages=len(config.depths))


def _vit(config: Any) -> PreTrainedConfig:
    """Return the ViT that computes the class token of a masked autoencoder, which itself would mask patches."""
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
              "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps",
              "image_size", "patch_size", "num_channels", "qkv_bias")  # fmt: skip
    return ViTConfig(**{name: getattr(config, name) for name in shared})


STOCK = {
    "dinov3_convnext": Stock(
        _convnext,
        {
            r"^(?:model\.)?stages\.0\.downsample_layers\.0\.": "convnext.embeddings.patch_embeddings.",
            r"^(?:model\.)?stages\.0\.downsample_layers\.1\.": "convnext.embeddings.layernorm.",
            r"^(?:model\.)?stages\.": "convnext.encoder.stages.",
            r"\.downsample_layers\.": ".downsampling_layer.",
            r"\.depthwise_conv\.": ".dwconv.",
            r"\.pointwise_conv1\.": ".pwconv1.",
            r"\.pointwise_conv2\.": ".pwconv2.",
            r"\.gamma$": ".layer_scale_parameter",
            r"\.layer_norm\.": ".layernorm.",
            r"^layer_norm\.": "convnext.layernorm.",
        },
    ),
    "vit_mae": Stock(_vit, {}),
}
"""Model type of a backbone -> the classifier."""


def as_stock_classifier(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """Return the configuration of a classifier of transformers that computes the same features, or None."""
    stock = STOCK.get(config.model_type)
    return stock.convert(config) if stock else None


def renamed_weights(model_type: str) -> Mapping[str, str]:
    """Return names of weights of a backbone -> names in its classifier, as regular expressions."""
    return STOCK[model_type].names if model_type in STOCK else {}
