"""Another resolution: the position table is interpolated and saved so; what a network cannot take is refused."""

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

from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.images.processor import input_size
from pipeline.models.build import build_model
from pipeline.models.checkpoint import save_model
from tests.conftest import COLOURS, save_vit
from tests.models.building import build, differing, logits

TABLE = "vit.embeddings.position_embeddings"


def test_another_resolution_interpolates_the_position_table_and_nothing_else(tiny_vit: Path) -> None:
    small, large = build(tiny_vit).state_dict(), build(tiny_vit, image_size=32).state_dict()
    assert differing(small, large) == {TABLE}
    old, new = small[TABLE], large[TABLE]
    assert old.shape == (1, 1 + 4 * 4, 32)
    assert new.shape == (1, 1 + 8 * 8, 32)
    assert torch.equal(new[:, 0], old[:, 0])  # the class token has no place
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
    arguments = ModelArguments(model_name_or_path=str(tiny_vit), image_size=32, from_scratch=from_scratch)
    processor, model = build_model(arguments, class_names=list(COLOURS), seed=0)
    (tmp_path / "run").mkdir()
    save_model(model, processor, tmp_path / "run")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert again.config.image_size == 32
    assert dict(AutoImageProcessor.from_pretrained(tmp_path / "run").size) == {"height": 32, "width": 32}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(again, images), logits(model, images))


@pytest.mark.parametrize(("size", "near"), [(30, "28 or 32"), (2, "try 4$"), (17, "16 or 20"), (0, "try 4$")])
def test_a_resolution_that_the_patch_size_does_not_divide_is_refused_with_those_near_it(
    tiny_vit: Path, size: int, near: str
) -> None:
    with pytest.raises(PipelineError, match=f"--image_size {size} is no multiple of the patch size 4: .*{near}"):
        build(tiny_vit, image_size=size)


def test_a_checkpoint_that_its_processor_does_not_fit_is_refused_before_the_run(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    ViTImageProcessor(size={"height": 20, "width": 20}).save_pretrained(folder)
    with pytest.raises(PipelineError, match=r"vit does not take the 20x20 images .*doesn't match model \(16\*16\)"):
        build(folder)


def test_a_swin_with_a_position_table_too_gets_it_interpolated(tmp_path: Path) -> None:
    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1], num_heads=[1], window_size=4, use_absolute_embeddings=True
    )
    SwinForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    small, large = build(tmp_path), build(tmp_path, image_size=32)
    assert differing(small.state_dict(), large.state_dict()) == {"swin.embeddings.position_embeddings"}
    assert large.state_dict()["swin.embeddings.position_embeddings"].shape == (1, 16 * 16, 8)


def test_a_network_whose_attention_knows_its_places_otherwise_is_refused(tmp_path: Path) -> None:
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
    with pytest.raises(PipelineError, match="--image_size 64 cannot be taken by a levit: leave it out"):
        build(tmp_path, image_size=64)


def test_a_size_too_small_for_a_convolution_is_refused(tmp_path: Path) -> None:
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert build(tmp_path, image_size=64).config.num_labels == 3
    with pytest.raises(PipelineError, match="--image_size 4 cannot be taken by a convnext: leave it out"):
        build(tmp_path, image_size=4)


def test_a_network_without_patches_takes_any_positive_size(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path), image_size=33)
    processor, model = build_model(arguments, class_names=list(COLOURS), seed=0)
    assert input_size(processor) == (33, 33)
    assert differing(model.state_dict(), build(tmp_path).state_dict()) == set()
    with pytest.raises(PipelineError, match="--image_size 0"):
        build(tmp_path, image_size=0)
