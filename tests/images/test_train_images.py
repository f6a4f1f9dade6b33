"""Map-style training images have the same pixels with and without the disk cache."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import ViTImageProcessor

from pipeline.arguments.images import ImageArguments
from pipeline.images.pixel_files import is_cached
from pipeline.images.train_images import MapImages, TrainImages, map_images
from pipeline.images.transforms import EvalTransform, TrainTransform
from tests.conftest import noisy_image
from tests.images.test_transforms import as_jpeg, pixels, split_of

MANY_EPOCHS = 10**9  # enough for a cache of a few images to save time
PROCESSOR: Any = ViTImageProcessor(size={"height": 16, "width": 16})


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    images = [noisy_image((90, 120, 60), seed, size=(40, 30)) for seed in range(6)]
    return split_of([{"bytes": as_jpeg(image), "path": None} for image in images])


def pixels_in(images: TrainImages, *, epoch: int) -> Tensor:
    """Return the pixels of an epoch. The parameter also lets mypy compare `MapImages` with the protocol."""
    images.epoch.fill_(epoch)
    return torch.stack([images.dataset[row]["pixel_values"] for row in range(len(images.dataset))])


@pytest.mark.parametrize(("limit_gb", "cached"), [(0, False), (1, True)])
def test_map_images_have_the_pixels_of_the_transform(split: datasets.Dataset, limit_gb: float, cached: bool) -> None:
    images = map_images(split, _transform(), limit_gb=limit_gb, epochs=MANY_EPOCHS)
    assert is_cached(images.dataset.with_format(None)[0]["image"]) == cached
    expected = _transform()
    for epoch in (0, 3):
        expected.epoch.fill_(epoch)
        assert torch.equal(pixels_in(images, epoch=epoch), pixels(expected, split))
    assert [row["labels"] for row in images.dataset] == split["label"][:]


def test_map_images_without_augmentation_are_the_evaluation_images(split: datasets.Dataset, cache_root: Path) -> None:
    images = map_images(split, _transform("none"), limit_gb=1, epochs=MANY_EPOCHS)
    assert torch.equal(pixels_in(images, epoch=1), pixels(EvalTransform(PROCESSOR), split))
    assert not cache_root.exists()


def test_the_trainer_builds_the_loader_of_map_images(split: datasets.Dataset) -> None:
    images: TrainImages = MapImages(split, _transform())
    assert images.loader(batch_size=2, num_workers=2, pin_memory=False, prefetch_factor=None) is None


def _transform(policy: Any = "basic") -> TrainTransform:
    return TrainTransform(PROCESSOR, ImageArguments(policy), seed=4)
