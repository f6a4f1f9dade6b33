"""Batches get the pixels that torchvision gives single images, for every operation and every sampled magnitude."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from pipeline.arguments.images import ImageArguments
from pipeline.images.augmentation import Augment, AugmentationParams, Operation, derive_seed
from pipeline.images.device import policies
from pipeline.images.device.policies import apply_operations

SIZE = (40, 56)
FILL = [124, 116, 104]
SPACE: dict[str, Any] = {**v2.TrivialAugmentWide._AUGMENTATION_SPACE, **v2.AutoAugment._AUGMENTATION_SPACE}
MAGNITUDES: dict[str, list[float]] = {
    "ShearX": [-0.99, -0.3, 0.2], "ShearY": [-0.3, 0.99], "TranslateX": [-17.4, 3.9], "TranslateY": [-5.5, 30.0],
    "Rotate": [-135.0, -30.0, 1.0, 90.0], "Brightness": [-0.99, -0.3, 0.9], "Color": [-0.99, 0.4],
    "Contrast": [-0.9, 0.3], "Sharpness": [-0.9, 0.99], "Posterize": [2, 4, 7, 8], "Solarize": [0.0, 0.3, 1.0],
}  # fmt: skip


def photos(count: int) -> Tensor:
    """Return smooth images of different brightness: noise would hide wrong places in rounding errors."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 6, 7, generator=generator) * torch.linspace(0.3, 1, count)[:, None, None, None]
    large = torch.nn.functional.interpolate(small, SIZE, mode="bilinear")
    return (large * 255).to(torch.uint8)


def augment(policy: str, erasing: float = 0.0) -> Augment:
    return Augment(ImageArguments(augmentation=policy, random_erasing=erasing), interpolation=2, fill=FILL)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SPACE))
def test_an_operation_does_what_torchvision_does(name: str) -> None:
    magnitudes: Sequence[Any] = MAGNITUDES.get(name, [0.0, 0.0])
    images = photos(len(magnitudes))
    policy: Any = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=FILL)
    expected = [
        policy._apply_image_or_video_transform(image, name, magnitude, policy.interpolation, policy._fill)
        for image, magnitude in zip(images, magnitudes, strict=True)
    ]
    operations = [[Operation(name, (float(magnitude),))] for magnitude in magnitudes]
    actual = apply_operations(images.clone(), operations, torch.tensor(FILL).byte())
    assert torch.equal(actual, torch.stack(expected))


def test_every_operation_of_torchvision_is_known() -> None:
    assert policies._KERNELS.keys() == (SPACE.keys() - {"Identity"}) | {"Erase"}
    assert policies._PARAMETERS.keys() == MAGNITUDES.keys()


@pytest.mark.parametrize("policy", ["basic", "trivial", "rand", "auto"])
@pytest.mark.parametrize("erasing", [0.0, 0.7])
def test_a_batch_gets_the_pixels_and_the_random_choices_of_single_images(policy: str, erasing: float) -> None:
    images, chosen = photos(96), augment(policy, erasing)
    params = [AugmentationParams(0, 0, *SIZE, flip=False, policy_seed=derive_seed(1, 2, i)) for i in range(len(images))]
    state = torch.get_rng_state()
    operations = chosen.sample_operations(params, SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    expected = torch.stack([chosen.distort(image, each) for image, each in zip(images, params, strict=True)])
    if not any(operations):
        assert (policy, erasing) == ("basic", 0.0)
        return
    assert torch.equal(apply_operations(images.clone(), operations, torch.tensor(FILL).byte()), expected)


def test_nothing_is_read_from_the_device() -> None:
    """Meta tensors stand for those of an accelerator: reading a value would fail."""
    chosen = augment("auto", 0.5)
    params = [AugmentationParams(0, 0, *SIZE, flip=False, policy_seed=seed) for seed in range(64)]
    pixels = torch.empty(64, 3, *SIZE, dtype=torch.uint8, device="meta")
    fill = torch.empty(3, dtype=torch.uint8, device="meta")
    assert apply_operations(pixels, chosen.sample_operations(params, SIZE), fill).shape == pixels.shape
