"""`PooledForImageClassification`: any vision backbone of transformers with a linear head on its pooled features.

Importing this module registers the classes: afterwards `AutoModelForImageClassification.from_pretrained` and
`transformers.pipeline` load a saved model in this process. They run no code from the model's files.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from pipeline.runs.folder import POOLED_MODEL_TYPE

POOLINGS = {
    "class_token_and_patches": "the class token and the mean of the patch tokens",
    "summary": "the class tokens that the backbone summarizes",
    "pooler": "the pooled output of the backbone",
    "patches": "the mean of the patch tokens",
    "feature_map": "the mean of the feature map",
}
"""The values of `PooledConfig.pooling`, and what each of them is."""

# Random changes of the rotary positions in training (DINOv3). They are sampled from the global random generator, so
# ranks would differ, and a step would depend on everything that was sampled before it.
_RANDOM_POSITIONS = ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale")


class PooledConfig(PreTrainedConfig):
    """Configuration of a `PooledForImageClassification`.

    Attributes:
        vision_config: Configuration of the backbone. Its random changes of positions in training are switched off.
        pooling: What the head reads, a key of `POOLINGS`.
        num_prefix_tokens: Number of class and register tokens before the patch tokens.
        num_features: Width of what the head reads.
    """

    model_type = POOLED_MODEL_TYPE
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig}

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    pooling: str = "pooler"
    num_prefix_tokens: int = 0
    num_features: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the configuration of the backbone from a dictionary.

        Raises:
            ValueError: If `pooling` is unknown.
        """
        if isinstance(self.vision_config, dict):
            self.vision_config = AutoConfig.for_model(**self.vision_config)
        super().__post_init__(**kwargs)
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}: use {', '.join(POOLINGS)}")
        for name in _RANDOM_POSITIONS:
            if getattr(self.vision_config, name, None) is not None:
                setattr(self.vision_config, name, None)


class PooledForImageClassification(PreTrainedModel):
    """A backbone, and a linear layer on its pooled features that computes the logits."""

    config: PooledConfig
    config_class = PooledConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = "image"
    accepts_loss_kwargs = False
    # What the backbone supports is checked by the backbone.
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = backbone_class(config.vision_config)(config.vision_config)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        config._attn_implementation_internal = self.backbone.config._attn_implementation
        self.classifier = nn.Linear(config.num_features, config.num_labels)  # type: ignore[arg-type]  # never None
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Return the logits (batch, labels), and the loss if labels are given.

        Args:
            pixel_values: Images (batch, 3, height, width).
            labels: Class numbers (batch,).
            kwargs: Further arguments of the backbone, such as `output_attentions`.
        """
        kwargs.pop("return_dict", None)
        outputs = self.backbone(pixel_values=pixel_values, **kwargs)
        logits = self.classifier(pool(outputs, self.config))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        hidden_states, attentions = (getattr(outputs, name, None) for name in ("hidden_states", "attentions"))
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)


def backbone_class(config: Any) -> Any:
    """Return the class of transformers that computes features for a backbone's configuration.

    Raises:
        KeyError: If transformers has no such class.
    """
    found: Any = MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def pool(outputs: Any, config: PooledConfig) -> Tensor:
    """Return the features (batch, width) that the head reads.

    Args:
        outputs: What the backbone returned.
        config: Says which features.
    """
    if config.pooling == "summary":
        features: Tensor = outputs.summary
    elif config.pooling == "pooler":
        features = outputs.pooler_output.flatten(1)
    elif config.pooling == "feature_map":
        features = outputs.last_hidden_state.mean(dim=(2, 3))
    else:
        features = outputs.last_hidden_state[:, config.num_prefix_tokens :].mean(dim=1)
        if config.pooling == "class_token_and_patches":
            features = torch.cat([outputs.last_hidden_state[:, 0], features], dim=1)
    return features


AutoConfig.register(PooledConfig.model_type, PooledConfig, exist_ok=True)
AutoModelForImageClassification.register(PooledConfig, PooledForImageClassification, exist_ok=True)
