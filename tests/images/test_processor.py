"""The image processor of a checkpoint returns images of one size; training and evaluation use the same colors."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BitImageProcessor,
    MobileViTImageProcessor,
    Siglip2ImageProcessor,
    ViTImageProcessor,
)

from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.images.processor import input_size, set_input_size
from pipeline.models.build import build_classifier
from tests.conftest import COLORS, noisy_image, save_vit
from tests.models.building import build


@pytest.mark.parametrize("crops", [False, True])
def test_image_size_changes_the_size_of_processed_images(tiny_vit: Path, tmp_path: Path, crops: bool) -> None:
    shutil.copytree(tiny_vit, tmp_path / "model")
    if crops:
        cropping = BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})
        cropping.save_pretrained(tmp_path / "model")
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "model"), image_size=32)
    processor = build_classifier(arguments, class_names=list(COLORS), seed=0).processor
    image = noisy_image((200, 50, 40), 0, size=(60, 40))
    assert processor(images=[image], return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)
    assert input_size(processor) == (32, 32)


def test_a_new_input_size_keeps_the_ratio_of_resize_and_crop() -> None:
    processor: Any = BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    set_input_size(processor, 448)
    assert dict(processor.crop_size) == {"height": 448, "width": 448}
    assert dict(processor.size) == {"shortest_edge": 512}
    uncropped: Any = BitImageProcessor(size={"shortest_edge": 224}, do_center_crop=False)
    set_input_size(uncropped, 448)
    assert dict(uncropped.size) == {"shortest_edge": 448}


def test_a_checkpoint_without_image_processor_is_rejected(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(PipelineError, match=r"bare has no image processor: add the preprocessor_config\.json"):
        build(tmp_path / "bare")


def test_a_processor_that_keeps_the_aspect_ratio_gets_a_center_crop_that_is_saved(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    BitImageProcessor(size={"shortest_edge": 16}, do_center_crop=False).save_pretrained(folder)
    processor = build_classifier(ModelArguments(str(folder)), class_names=list(COLORS), seed=0).processor
    assert input_size(processor) == (16, 16)
    processor.save_pretrained(tmp_path / "run")
    image = noisy_image((200, 50, 40), 0, size=(60, 40))
    saved: Any = BitImageProcessor.from_pretrained(tmp_path / "run")
    cropping: Any = BitImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    actual, expected = (p(images=[image], return_tensors="pt")["pixel_values"] for p in (saved, cropping))
    assert actual.shape == (1, 3, 16, 16)
    assert actual.equal(expected)


def test_a_processor_that_returns_images_of_different_sizes_is_rejected(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    ViTImageProcessor(do_resize=False).save_pretrained(folder)
    with pytest.raises(PipelineError, match=r"vit returns images of different sizes: add \"size\""):
        build(folder)


def test_a_processor_that_swaps_the_color_channels_is_rejected(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    processor = MobileViTImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(folder)
    with pytest.raises(
        PipelineError, match="vit does more than resize, crop, rescale and normalize, so colors would differ"
    ):
        build(folder)


def test_a_processor_that_returns_patches_is_rejected(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    Siglip2ImageProcessor(patch_size=4, max_num_patches=16).save_pretrained(folder)
    with pytest.raises(PipelineError, match="vit does not return images: choose another model"):
        build(folder)
