"""Another resolution: position embeddings are interpolated and saved, and unsupported resolutions are rejected."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    LevitConfig,
    LevitForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessor,
)

from pipeline.errors import PipelineError
from tests.conftest import save_vit
from tests.models.building import build, differing, logits, new_classifier

POSITION_EMBEDDINGS = "vit.embeddings.position_embeddings"


def test_another_resolution_interpolates_the_position_embeddings_and_nothing_else(tiny_vit: Path) -> None:
    small, large = build(tiny_vit).state_dict(), build(tiny_vit, image_size=32).state_dict()
    assert differing(small, large) == {POSITION_EMBEDDINGS}
    old, new = small[POSITION_EMBEDDINGS], large[POSITION_EMBEDDINGS]
    assert old.shape == (1, 1 + 4 * 4, 32)
    assert new.shape == (1, 1 + 8 * 8, 32)
    assert torch.equal(new[:, 0], old[:, 0])  # the class token is not in the grid
    for channel in range(32):
        grid = old[0, 1:, channel].reshape(1, 1, 4, 4)
        expected = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False)
        assert torch.allclose(new[0, 1:, channel].reshape(8, 8), expected[0, 0], atol=1e-6)


def test_the_resolution_of_the_checkpoint_changes_nothing(tiny_vit: Path) -> None:
    assert differing(build(tiny_vit).state_dict(), build(tiny_vit, image_size=16).state_dict()) == set()


@pytest.mark.parametrize("from_scratch", [False, True])
def test_another_resolution_is_saved_with_config_and_processor(
    tiny_vit: Path, tmp_path: Path, from_scratch: bool
) -> None:
    classifier = new_classifier(tiny_vit, image_size=32, from_scratch=from_scratch)
    (tmp_path / "run").mkdir()
    classifier.save(tmp_path / "run")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert loaded.config.image_size == 32
    assert dict(AutoImageProcessor.from_pretrained(tmp_path / "run").size) == {"height": 32, "width": 32}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(loaded, images), logits(classifier.model, images))


@pytest.mark.parametrize(("size", "nearest"), [(30, "28 or 32"), (2, "4"), (17, "16 or 20"), (0, "4")])
def test_a_resolution_that_is_not_a_multiple_of_the_patch_size_is_rejected(
    tiny_vit: Path, size: int, nearest: str
) -> None:
    with pytest.raises(
        PipelineError, match=f"--image_size {size} is not a multiple of the patch size 4: use {nearest}$"
    ):
        build(tiny_vit, image_size=size)


def test_a_checkpoint_that_does_not_support_its_processor_is_rejected(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    ViTImageProcessor(size={"height": 20, "width": 20}).save_pretrained(folder)
    with pytest.raises(PipelineError, match=r"vit does not support the 20x20 images .*doesn't match model \(16\*16\)"):
        build(folder)


def test_the_absolute_position_embeddings_of_a_swin_are_interpolated(tmp_path: Path) -> None:
    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1], num_heads=[1], window_size=4, use_absolute_embeddings=True
    )
    SwinForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    small, large = build(tmp_path), build(tmp_path, image_size=32)
    assert differing(small.state_dict(), large.state_dict()) == {"swin.embeddings.position_embeddings"}
    assert large.state_dict()["swin.embeddings.position_embeddings"].shape == (1, 16 * 16, 8)


def test_a_network_with_another_kind_of_position_encoding_is_rejected(tmp_path: Path) -> None:
    shape: dict[str, Any] = {
        "image_size": 32,
        "hidden_sizes": [8, 8, 8],
        "num_attention_heads": [1, 1, 1],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "down_ops": [["Subsample", 8, 1, 4, 2, 2]] * 2,
    }
    config = LevitConfig(**shape)
    LevitForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert build(tmp_path).config.num_labels == 3
    with pytest.raises(PipelineError, match="--image_size 64 is not supported by levit: remove --image_size"):
        build(tmp_path, image_size=64)


def test_a_resolution_that_is_too_small_for_a_convolution_is_rejected(tmp_path: Path) -> None:
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert build(tmp_path, image_size=64).config.num_labels == 3
    with pytest.raises(PipelineError, match="--image_size 4 is not supported by convnext: remove --image_size"):
        build(tmp_path, image_size=4)


def test_a_network_without_patches_supports_any_positive_resolution(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    classifier = new_classifier(tmp_path, image_size=33)
    assert classifier.input_size == (33, 33)
    assert differing(classifier.model.state_dict(), build(tmp_path).state_dict()) == set()
    with pytest.raises(PipelineError, match="--image_size 0"):
        build(tmp_path, image_size=0)
