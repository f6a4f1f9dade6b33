"""Small checkpoints of every supported backbone family, with the image processor that the family has on the Hub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn
from transformers import (
    Aimv2Config,
    Aimv2Model,
    Aimv2VisionConfig,
    Aimv2VisionModel,
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitImageProcessor,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTImageProcessor,
    Dinov2Config,
    Dinov2Model,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    PixioConfig,
    PixioModel,
    RadioConfig,
    RadioModel,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SwinConfig,
    SwinForImageClassification,
    SwinForMaskedImageModeling,
    Tipsv2Config,
    Tipsv2ImageProcessor,
    Tipsv2Model,
    Tipsv2VisionConfig,
    Tipsv2VisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
B16 = LAYERS | {"image_size": 32, "patch_size": 16}
L32 = LAYERS | {"image_size": 64, "patch_size": 32}
BEIT = B16 | {"patch_size": 8, "use_relative_position_bias": True, "use_mean_pooling": True}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [1, 2],
    "window_size": 4,
    "encoder_stride": 8,
}
NO_MLP_SIZE = {key: value for key, value in B16.items() if key != "intermediate_size"}
TIPS = NO_MLP_SIZE | {"image_size": 28, "patch_size": 14}
DINOV2 = LAYERS | {"image_size": 56, "patch_size": 14, "mlp_ratio": 2}
TOWERS: dict[str, Any] = {"text_config": LAYERS | {"vocab_size": 20}, "vision_config": B16}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
FIVE_CLASSES = {"num_labels": 5}

IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


RESIZE_PROCESSOR = ViTImageProcessor(size=square(32))
DEIT_PROCESSOR = DeiTImageProcessor(size=square(36), crop_size=square(32), **IMAGENET)
CLIP_PROCESSOR = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square(32))
TIPS_PROCESSOR = Tipsv2ImageProcessor(size=square(28))
CROP_PCT_PROCESSOR = ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875, **IMAGENET)


@dataclass(frozen=True)
class Family:
    """A checkpoint and its processor.

    Attributes:
        model: Returns the network of the checkpoint, which is not always a classifier.
        processor: Its image processor, or None for a timm model.
        size: Input resolution of the processor in pixels.
        other_size: Another supported value of `--image_size`, or None if the resolution cannot be changed.
        position_embeddings: Name of the weight that is interpolated for `other_size`, or None.
        num_prefix_tokens: Number of position embeddings of tokens that are not patches.
        new_weights: Names of the weights that the checkpoint does not have, other than the head.
    """

    model: Callable[[], nn.Module]
    processor: Any = RESIZE_PROCESSOR
    size: int = 32
    other_size: int | None = 64
    position_embeddings: str | None = None
    num_prefix_tokens: int = 0
    new_weights: frozenset[str] = frozenset()


FAMILIES = {
    "vit b/16": Family(
        lambda: ViTForImageClassification(ViTConfig(**B16 | FIVE_CLASSES)),
        position_embeddings="vit.embeddings.position_embeddings",
        num_prefix_tokens=1,
    ),
    "vit b/16 in21k": Family(
        lambda: ViTModel(ViTConfig(**B16)),
        position_embeddings="vit.embeddings.position_embeddings",
        num_prefix_tokens=1,
    ),
    "vit l/32": Family(
        lambda: ViTForImageClassification(ViTConfig(**L32 | FIVE_CLASSES)),
        ViTImageProcessor(size=square(64)),
        size=64,
        other_size=96,
        position_embeddings="vit.embeddings.position_embeddings",
        num_prefix_tokens=1,
    ),
    "deit": Family(
        lambda: DeiTForImageClassification(DeiTConfig(**B16 | FIVE_CLASSES)),
        DEIT_PROCESSOR,
        position_embeddings="deit.embeddings.position_embeddings",
        num_prefix_tokens=2,
    ),
    "deit distilled": Family(
        lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**B16 | FIVE_CLASSES)),
        DEIT_PROCESSOR,
        position_embeddings="deit.embeddings.position_embeddings",
        num_prefix_tokens=2,
    ),
    "swin": Family(lambda: SwinForImageClassification(SwinConfig(**SWIN | FIVE_CLASSES))),
    "swin simmim": Family(lambda: SwinForMaskedImageModeling(SwinConfig(**SWIN))),
    "beit": Family(
        lambda: BeitForImageClassification(BeitConfig(**BEIT | FIVE_CLASSES)),
        BeitImageProcessor(size=square(36), crop_size=square(32), do_center_crop=True),
    ),
    "beit pt22k": Family(
        lambda: BeitForMaskedImageModeling(BeitConfig(**BEIT, vocab_size=11)),
        BeitImageProcessor(size=square(32), do_center_crop=False),
        new_weights=frozenset({"beit.pooler.layernorm.weight", "beit.pooler.layernorm.bias"}),
    ),
    "dinov2": Family(
        lambda: Dinov2Model(Dinov2Config(**DINOV2)),
        BitImageProcessor(size={"shortest_edge": 32}, crop_size=square(28), **IMAGENET),
        size=28,
        other_size=42,
    ),
    "siglip": Family(
        lambda: SiglipModel(SiglipConfig(**TOWERS)),
        SiglipImageProcessor(size=square(32)),
        position_embeddings="vision_model.embeddings.position_embedding.weight",
    ),
    "clip": Family(
        lambda: CLIPModel(CLIPConfig(**TOWERS)),
        CLIP_PROCESSOR,
        position_embeddings="vision_model.embeddings.position_embedding.weight",
        num_prefix_tokens=1,
    ),
    "resnet": Family(
        lambda: ResNetForImageClassification(ResNetConfig(**RESNET | FIVE_CLASSES)), CROP_PCT_PROCESSOR, size=28
    ),
    "convnext": Family(
        lambda: ConvNextForImageClassification(ConvNextConfig(**CONVNEXT | FIVE_CLASSES)), CROP_PCT_PROCESSOR, size=28
    ),
    # With a pooled head, because transformers has no image classifier for them.
    "dinov3": Family(
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**B16 | {"patch_size": 8, "num_register_tokens": 4})),
        DINOv3ViTImageProcessor(size=square(32)),
    ),
    "aimv2": Family(
        lambda: Aimv2VisionModel(Aimv2VisionConfig(**B16)),
        CLIP_PROCESSOR,
        position_embeddings="backbone.embeddings.position_embedding.weight",
    ),
    "aimv2 native": Family(
        lambda: Aimv2VisionModel(Aimv2VisionConfig(**B16, is_native=True, use_head=False)), CLIP_PROCESSOR
    ),
    "aimv2 with text": Family(
        lambda: Aimv2Model(Aimv2Config(**TOWERS)),
        CLIP_PROCESSOR,
        position_embeddings="backbone.embeddings.position_embedding.weight",
    ),
    "radio": Family(
        lambda: RadioModel(RadioConfig(**NO_MLP_SIZE, max_img_size=128)),
        CLIPImageProcessor(size=square(32), do_center_crop=False, do_normalize=False),
    ),
    "tipsv2": Family(lambda: Tipsv2VisionModel(Tipsv2VisionConfig(**TIPS)), TIPS_PROCESSOR, size=28, other_size=56),
    "tipsv2 with text": Family(
        lambda: Tipsv2Model(Tipsv2Config(text_config=LAYERS | {"vocab_size": 20}, vision_config=TIPS)),
        TIPS_PROCESSOR,
        size=28,
        other_size=56,
    ),
    "pixio": Family(lambda: PixioModel(PixioConfig(**NO_MLP_SIZE, n_cls_tokens=2)), RESIZE_PROCESSOR),
    "clip vision": Family(
        lambda: CLIPVisionModel(CLIPVisionConfig(**B16)),
        CLIP_PROCESSOR,
        position_embeddings="backbone.embeddings.position_embedding.weight",
        num_prefix_tokens=1,
    ),
    # A classifier of transformers computes them under other names.
    "dinov3 convnext": Family(
        lambda: DINOv3ConvNextModel(DINOv3ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1])),
        DINOv3ViTImageProcessor(size=square(32)),
    ),
    "vit mae": Family(
        lambda: ViTMAEForPreTraining(
            ViTMAEConfig(
                **B16,
                decoder_hidden_size=16,
                decoder_num_attention_heads=2,
                decoder_num_hidden_layers=1,
                decoder_intermediate_size=16,
            )
        ),
        position_embeddings="vit.embeddings.position_embeddings",
        num_prefix_tokens=1,
    ),
    "timm vit": Family(lambda: timm.create_model("test_vit", num_classes=5, img_size=32), None, other_size=None),
    "timm resnet": Family(lambda: timm.create_model("test_resnet", num_classes=5), None, other_size=None),
}


def save(name: str, folder: Path) -> dict[str, Tensor]:
    """Write a checkpoint of the family, with noise in every tensor that training changes.

    Returns:
        The weights of the checkpoint.
    """
    torch.manual_seed(7)
    family = FAMILIES[name]
    model: Any = family.model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
        for key, buffer in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer) * 0.1)
            elif key.endswith("num_batches_tracked"):
                buffer.add_(3)
    if family.processor is None:
        save_for_hf(model, str(folder), data_config={"input_size": (3, 32, 32)}, safe_serialization=True)
    else:
        model.save_pretrained(folder)
        family.processor.save_pretrained(folder)
    weights: dict[str, Tensor] = model.state_dict()
    return weights
