"""Crops of a batch on the device have the pixels of the crops of single images."""

import random
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.arguments.images import ImageArguments, Policy
from pipeline.images.augmentation import Augment, AugmentationParams, derive_seed
from pipeline.images.device import packed
from pipeline.images.device.packed import PackedImages

CPU = torch.device("cpu")
FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
ALL_FILTERS = pytest.mark.parametrize("interpolation", FILTERS.values(), ids=list(FILTERS))


def noise(sizes: list[tuple[int, int]]) -> list[Any]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def augment_with(interpolation: int = 2, **flags: Any) -> Augment:
    return Augment(ImageArguments(**flags), interpolation=interpolation, fill=[120, 100, 90])


def one_by_one(augment: Augment, images: list[Any], params: list[AugmentationParams], size: list[int]) -> Tensor:
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    return torch.stack([augment.crop(image, p, size) for image, p in zip(tensors, params, strict=True)])


def sampled(augment: Augment, images: list[Any], *, epoch: int) -> list[AugmentationParams]:
    return [augment.sample(derive_seed(1, epoch, i), image.shape[:2]) for i, image in enumerate(images)]


@ALL_FILTERS
def test_random_crops_of_a_batch_equal_crops_of_single_images(interpolation: int) -> None:
    choose, augment = random.Random(interpolation), augment_with(interpolation)
    images = noise([(choose.randint(1, 90), choose.randint(1, 120)) for _ in range(40)])
    stored = PackedImages(list(images), CPU)
    for epoch in range(10):
        params, size = sampled(augment, images, epoch=epoch), [choose.randint(16, 64), choose.randint(16, 64)]
        actual = stored.crop(range(len(images)), params, size, mode=augment.mode)
        expected = one_by_one(augment, images, params, size)
        assert actual.shape == expected.shape
        assert actual.dtype == torch.uint8
        difference = (actual.int() - expected.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 1e-4


@ALL_FILTERS
@pytest.mark.parametrize("size", [[224, 224], [70, 300], [300, 300]])
def test_crops_that_are_not_shrunk_more_than_four_times_are_exact(interpolation: int, size: list[int]) -> None:
    augment = augment_with(interpolation)
    images = noise([(280, 280), (246, 400), (400, 246), (280, 281)])
    params = sampled(augment, images, epoch=0)
    actual = PackedImages(list(images), CPU).crop(range(len(images)), params, size, mode=augment.mode)
    assert torch.equal(actual, one_by_one(augment, images, params, size))


@ALL_FILTERS
def test_strong_shrinking_differs_by_at_most_one_level(interpolation: int) -> None:
    augment = augment_with(interpolation)
    images = noise([(900, 700), (64, 900)])
    params = [AugmentationParams(0, 0, 900, 700, False, 0), AugmentationParams(0, 0, 64, 900, True, 0)]
    actual = PackedImages(list(images), CPU).crop([0, 1], params, [16, 16], mode=augment.mode)
    assert (actual.int() - one_by_one(augment, images, params, [16, 16]).int()).abs().max() <= 1


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@ALL_FILTERS
def test_a_uniform_image_stays_uniform(interpolation: int, level: int) -> None:
    augment = augment_with(interpolation)
    images = [np.full((50, 70, 3), level, np.uint8)] * 8
    params = sampled(augment, images, epoch=0)
    assert (PackedImages(images[:], CPU).crop(range(8), params, [32, 32], mode=augment.mode) == level).all()


def test_rows_are_selected_in_any_order_and_repeatedly() -> None:
    augment = augment_with()
    images = noise([(30, 40), (50, 20), (33, 33)])
    numbers = [2, 0, 2, 1]
    params = sampled(augment, [images[i] for i in numbers], epoch=0)
    actual = PackedImages(list(images), CPU).crop(numbers, params, [16, 16], mode=augment.mode)
    assert torch.equal(actual, one_by_one(augment, [images[i] for i in numbers], params, [16, 16]))


def test_a_batch_with_very_different_sizes_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_MAX_GATHERED", 3 * 64 * 64)
    augment = augment_with()
    images = noise([(20, 20), (20, 3000), (64, 64), (20, 20), (900, 20)])
    params = sampled(augment, images, epoch=0)
    parts = list(packed._parts(params))
    assert sorted(position for part in parts for position in part) == [0, 1, 2, 3, 4]
    assert len(parts) > 2
    assert {0, 3} <= set(parts[0])  # similar sizes share their padding
    actual = PackedImages(list(images), CPU).crop(range(5), params, [16, 16], mode=augment.mode)
    assert torch.equal(actual, one_by_one(augment, images, params, [16, 16]))


def test_one_image_of_one_pixel() -> None:
    augment = augment_with()
    (image,) = noise([(1, 1)])
    params = sampled(augment, [image], epoch=0)
    actual = PackedImages([image], CPU).crop([0], params, [4, 4], mode=augment.mode)
    assert torch.equal(actual, torch.from_numpy(image).view(1, 3, 1, 1).expand(1, 3, 4, 4))


def test_the_images_are_stored_without_padding() -> None:
    images = noise([(30, 40), (50, 20)])
    stored = PackedImages(images, CPU)
    assert images == []
    assert len(stored.buffer) == 3 * (30 * 40 + 50 * 20) + 40
    assert (stored.heights, stored.widths) == ([30, 50], [40, 20])


@pytest.mark.parametrize("policy", [policy for policy in get_args(Policy) if policy != "none"])
def test_policy_and_erasing_after_the_crop_equal_those_of_single_images(policy: Policy) -> None:
    augment = augment_with(augmentation=policy, random_erasing=0.5)
    images = noise([(40, 60)] * 12)
    params = sampled(augment, images, epoch=0)
    crops = PackedImages(list(images), CPU).crop(range(12), params, [32, 32], mode=augment.mode)
    for image, crop, choice in zip(images, crops, params, strict=True):
        expected = augment.apply(torch.from_numpy(image).permute(2, 0, 1), choice, [32, 32])
        assert torch.equal(augment.distort(crop, choice), expected)
