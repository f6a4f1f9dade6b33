"""Tiny networks that learn, in seconds, to find one planted patch, and images in which it decides the class."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from pipeline.models.classifier import ImageClassifier

SIDE, PATCH, CLASSES = 32, 8, 4
LAYERS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
LABELS: dict[str, Any] = {"num_labels": CLASSES}
STAGES: dict[str, Any] = {"hidden_sizes": [16, 32], "depths": [1, 1]}

NETWORKS: dict[str, Any] = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**LAYERS, **LABELS)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**LAYERS, **LABELS)),
    "deit distilled": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**LAYERS, **LABELS)),
    "beit": lambda: BeitForImageClassification(
        BeitConfig(**LAYERS, **LABELS, use_relative_position_bias=True, use_mean_pooling=True)
    ),
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**LAYERS, **LABELS, mlp_ratio=2, layerscale_value=1.0)),
    "siglip": lambda: SiglipForImageClassification(
        SiglipConfig(text_config={**LAYERS, "vocab_size": 20}, vision_config=LAYERS, **LABELS)
    ),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=SIDE, patch_size=4, embed_dim=16, depths=[2], num_heads=[2], window_size=2, **LABELS)
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(**STAGES, num_stages=2, layer_scale_init_value=1.0, **LABELS)
    ),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16], depths=[2], layer_type="basic", **LABELS)
    ),
}
LEGRAD = ("vit", "deit", "deit distilled", "beit", "dinov2", "siglip")


def new_network(name: str) -> ImageClassifier:
    """Return an untrained network of a family at 32 px."""
    torch.manual_seed(0)
    processor: Any = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return ImageClassifier(NETWORKS[name]().eval(), processor)


def planted(count: int, seed: int, *, empty: float = 0.0) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Return noisy images in which the color of one bright patch, at a random place, is the class.

    A part of the images is empty: without a patch, the class is the last one.

    Returns:
        Pixel values (count, 3, 32, 32), the classes, and row and column of the patches (count, 2).
    """
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 0.25, (count, 3, SIDE, SIDE)).astype(np.float32)
    labels, places = rng.integers(0, CLASSES - 1, count), rng.integers(0, SIDE // PATCH, (count, 2))
    labels[: round(empty * count)] = CLASSES - 1
    for image, label, (row, column) in zip(pixels, labels, places, strict=True):
        if label == CLASSES - 1:
            continue
        image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = -1
        image[label, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 2.5
    return torch.from_numpy(pixels), torch.from_numpy(labels), places


def train_on_planted(model: Any, *, steps: int = 300, learning_rate: float = 2e-3) -> None:
    """Train a network until the planted patch decides what it predicts."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    pixels, labels, _ = planted(2048, seed=1, empty=0.3)
    shuffled = torch.randperm(2048, generator=torch.Generator().manual_seed(0))
    model.train()
    for step in range(steps):
        batch = shuffled[step * 32 % 2048 :][:32]
        loss = nn.functional.cross_entropy(model(pixel_values=pixels[batch]).logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
