"""Backbones that a classifier of transformers computes: equal features, and files that transformers alone loads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    ConvNextForImageClassification,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    ViTForImageClassification,
    ViTMAEModel,
)

from pipeline import PooledForImageClassification
from tests.models.building import build, logits, new_classifier
from tests.models.families import RESIZE_PROCESSOR, save

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_convnext_of_dinov3_is_the_convnext_of_transformers(tmp_path: Path) -> None:
    save("dinov3 convnext", tmp_path / "checkpoint")
    classifier = new_classifier(tmp_path / "checkpoint")
    model = classifier.model
    assert type(model) is ConvNextForImageClassification
    backbone = DINOv3ConvNextModel.from_pretrained(tmp_path / "checkpoint").eval()
    with torch.no_grad():
        expected = model.classifier(backbone(IMAGES).pooler_output)
    assert torch.allclose(logits(model, IMAGES), expected, atol=1e-5)
    (tmp_path / "run").mkdir()
    classifier.save(tmp_path / "run")
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert type(saved) is ConvNextForImageClassification
    assert torch.equal(logits(saved, IMAGES), logits(model, IMAGES))


def test_a_masked_autoencoder_is_a_vit_that_masks_nothing(tmp_path: Path) -> None:
    save("vit mae", tmp_path)
    model = build(tmp_path)
    assert type(model) is ViTForImageClassification
    backbone = ViTMAEModel.from_pretrained(tmp_path, mask_ratio=0.0).eval()
    with torch.no_grad():
        expected = model.classifier(backbone(IMAGES).last_hidden_state[:, 0])
    assert torch.allclose(logits(model, IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize("changes", [{"layer_norm_eps": 1e-5}, {"layer_scale_init_value": 0.0}])
def test_a_convnext_that_the_classifier_would_compute_otherwise_gets_a_pooled_head(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    shape: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    config = DINOv3ConvNextConfig(**shape | changes)
    DINOv3ConvNextModel(config).save_pretrained(tmp_path)
    RESIZE_PROCESSOR.save_pretrained(tmp_path)
    model = build(tmp_path)
    assert type(model) is PooledForImageClassification
    backbone = DINOv3ConvNextModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model.classifier(backbone(IMAGES).pooler_output)
    assert torch.allclose(logits(model, IMAGES), expected, atol=1e-6)
