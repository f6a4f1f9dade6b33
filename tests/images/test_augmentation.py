"""Augmentation is a function of (seed, epoch, index); every policy and every flag changes the input of the network."""

import pickle
import random
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import BitImageProcessor, ViTImageProcessor

from pipeline.arguments.checks import require_valid
from pipeline.arguments.data import DataArguments
from pipeline.arguments.images import ImageArguments, Policy
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.sources import load_splits
from pipeline.errors import PipelineError
from pipeline.images.augmentation import Augment, AugmentationParams, derive_seed, sample_crop
from pipeline.images.processor import Normalize
from pipeline.images.transforms import EvalTransform, TrainTransform, collate
from pipeline.models.build import build_classifier
from pipeline.training.fine_tune import load_images
from pipeline.training.fit import fit
from tests.conftest import noisy_image
from tests.images.test_transforms import as_jpeg, normalized_pixels, pixels, split_of

POLICIES: tuple[Policy, ...] = get_args(Policy)
RANDOM = pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "none"])
BEYOND_BASIC = pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy not in ("none", "basic")])
RESIZES: Any = ViTImageProcessor(
    size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.3] * 3, resample=3
)
POLICY_CLASSES: dict[Any, Any] = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "auto": v2.AutoAugment}
FILL = [120, 100, 90]
CROPS: Any = BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    """Return 24 images of 40 x 30 pixels, as bytes."""
    images = [noisy_image((90, 120, 60), seed, size=(40, 30)) for seed in range(24)]
    return split_of([{"bytes": as_jpeg(image), "path": None} for image in images])


@pytest.fixture(scope="module")
def ramps() -> datasets.Dataset:
    """Return one square 100 times, lighter from left to right: the slope of a crop is its fraction of the width."""
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    return split_of([{"bytes": as_jpeg(PIL.Image.fromarray(np.ascontiguousarray(ramp))), "path": None}] * 100)


def transform_with(policy: Policy, *, epoch: int = 0, seed: int = 1, processor: Any = RESIZES) -> TrainTransform:
    transform = TrainTransform(processor, ImageArguments(policy), seed=seed)
    transform.epoch.fill_(epoch)
    return transform


def slopes(split: datasets.Dataset, **flags: Any) -> Tensor:
    """Return the slope of each image as a fraction of the slope of the full image, negative if it is flipped."""
    images = pixels(TrainTransform(RESIZES, ImageArguments(**flags), seed=0), split) / 255
    return (images[:, 0, :, -1] - images[:, 0, :, 0]).mean(1)


def _global_states() -> tuple[Any, ...]:
    """Return the state of every global generator that a transform could use."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 (the global generator)
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2], torch.get_rng_state().tolist()


@BEYOND_BASIC
def test_a_policy_changes_most_images_in_addition_to_crop_and_flip(policy: Policy, split: datasets.Dataset) -> None:
    basic, augmented = pixels(transform_with("basic"), split), pixels(transform_with(policy), split)
    changed = [not torch.equal(*pair) for pair in zip(basic, augmented, strict=True)]
    assert sum(changed) > len(changed) / 2
    assert augmented.shape == basic.shape
    assert augmented.dtype == torch.uint8


def test_policies_differ_from_each_other(split: datasets.Dataset) -> None:
    images = torch.stack([normalized_pixels(transform_with(policy), split).flatten() for policy in POLICIES])
    assert len(images.unique(dim=0)) == len(POLICIES)


@pytest.mark.parametrize("processor", [RESIZES, CROPS], ids=["resizes", "crops"])
def test_none_gives_the_evaluation_pixels_in_every_epoch(processor: Any, split: datasets.Dataset) -> None:
    expected = pixels(EvalTransform(processor), split)
    for epoch in (0, 1):
        assert torch.equal(pixels(transform_with("none", epoch=epoch, processor=processor), split), expected)


@RANDOM
def test_pixels_depend_only_on_seed_epoch_and_index(policy: Policy, split: datasets.Dataset) -> None:
    first = pixels(transform_with(policy), split)
    states = _global_states()
    backwards = pixels(transform_with(policy), split, rows=list(range(24))[::-1])
    assert _global_states() == states
    assert torch.equal(backwards.flip(0), first)
    for other in (transform_with(policy, epoch=1), transform_with(policy, seed=2)):
        changed = [not torch.equal(*pair) for pair in zip(first, pixels(other, split), strict=True)]
        assert all(changed)


@pytest.mark.parametrize("policy", POLICIES)
def test_workers_give_the_same_pixels_as_the_main_process(policy: Policy, split: datasets.Dataset) -> None:
    transform = transform_with(policy)
    loader = DataLoader(split.with_transform(transform), batch_size=5, collate_fn=collate, num_workers=2)
    for epoch in (0, 1):
        transform.epoch.fill_(epoch)
        actual = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(actual, pixels(transform_with(policy, epoch=epoch), split))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pickled_transform_gives_the_same_pixels(policy: Policy, split: datasets.Dataset) -> None:
    copied = pickle.loads(pickle.dumps(transform_with(policy)))  # noqa: S301 (our own bytes)
    assert torch.equal(pixels(copied, split), pixels(transform_with(policy), split))


def test_empty_pixels_after_a_rotation_have_the_mean_of_the_processor() -> None:
    white = split_of([{"bytes": as_jpeg(PIL.Image.new("RGB", (32, 32), "white")), "path": None}] * 150)
    augmented = normalized_pixels(transform_with("trivial"), white)
    still_white = augmented[(augmented[:, :, 8, 8] > 1).all(1)]  # The policy did not change the color of the center.
    corners = still_white[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    empty = (corners.abs() < 0.5 / 255 / 0.3 + 1e-5).all(1)  # The mean is rounded to an integer color.
    assert 10 < int(empty.any(1).sum()) < len(still_white)
    assert corners.min() > -0.5  # Black would be at -1.3 to -2.


def test_crop_scale_sets_the_smallest_crop(ramps: datasets.Dataset) -> None:
    assert slopes(ramps, hflip=0.0).min() < 0.5
    assert slopes(ramps, hflip=0.0, crop_scale=0.9).min() > 0.8


@pytest.mark.parametrize(("hflip", "least", "most"), [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
def test_hflip_sets_the_fraction_of_flipped_images(
    ramps: datasets.Dataset, hflip: float, least: int, most: int
) -> None:
    assert least <= int((slopes(ramps, hflip=hflip) < 0).sum()) <= most


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        ({"crop_scale": 0.0}, ["--crop_scale 0.0 is out of range: use a value between 0 and 1"]),
        ({"crop_scale": 1.1}, ["--crop_scale 1.1 is out of range"]),
        ({"crop_scale": float("nan")}, ["--crop_scale nan is out of range"]),
        ({"hflip": -0.1}, ["--hflip -0.1 is out of range: use a value between 0 and 1"]),
        ({"hflip": 50.0}, ["--hflip 50.0 is out of range"]),
        ({"hflip": 2.0, "crop_scale": 2.0}, ["--crop_scale 2.0 is out of range", "--hflip 2.0 is out of range"]),
    ],
)
def test_a_number_out_of_range_is_rejected_with_its_flag(flags: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(PipelineError) as caught:
        require_valid(ImageArguments(**flags))
    for line, message in zip(str(caught.value).splitlines(), messages, strict=True):
        assert line.startswith(message)


# These parameters must never change: finished runs could no longer be repeated or resumed.
@pytest.mark.parametrize(
    ("seed", "image_size", "expected"),
    [
        (0, (300, 500), AugmentationParams(16, 124, 284, 247, flip=True, policy_seed=0)),
        (1, (300, 500), AugmentationParams(16, 130, 158, 193, flip=True, policy_seed=1)),
        (7, (300, 500), AugmentationParams(3, 37, 263, 215, flip=False, policy_seed=7)),
        (3, (2, 400), AugmentationParams(0, 198, 2, 3, flip=False, policy_seed=3)),
    ],
)
def test_sampled_parameters_never_change(seed: int, image_size: tuple[int, int], expected: AugmentationParams) -> None:
    augment = Augment(ImageArguments("trivial", random_erasing=0.5), interpolation=3, fill=FILL)
    assert augment.sample(seed, image_size) == expected


@pytest.mark.parametrize("policy", [*POLICY_CLASSES, "basic"])
def test_apply_is_crop_resize_flip_policy_and_erasing(policy: Policy) -> None:
    augment = Augment(ImageArguments(policy, random_erasing=0.5), interpolation=3, fill=FILL)
    flips, states = set(), _global_states()
    for seed in range(12):
        image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 40 + seed, 60), dtype=np.uint8))
        params = augment.sample(seed, (40 + seed, 60))
        flips.add(params.flip)
        actual = augment.apply(image, params, [16, 20])

        expected = v2.functional.crop(image, params.top, params.left, params.height, params.width)
        expected = torch.nn.functional.interpolate(expected[None], [16, 20], mode="bicubic", antialias=True)[0]
        if params.flip:
            expected = v2.functional.horizontal_flip(expected)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if policy in POLICY_CLASSES:
                bilinear = v2.InterpolationMode.BILINEAR
                expected = POLICY_CLASSES[policy](interpolation=bilinear, fill=FILL)(expected)
            expected = v2.RandomErasing(0.5, value=FILL)(expected)
        assert torch.equal(actual, expected)
    assert flips == {True, False}
    assert _global_states() == states


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "none"])
def test_the_transform_samples_and_applies_with_the_derived_seed(policy: Policy, split: datasets.Dataset) -> None:
    transform = transform_with(policy, epoch=2, seed=5)
    assert transform.augment is not None
    for row, image in enumerate(pixels(transform, split, rows=[0, 7])):
        index = [0, 7][row]
        decoded = torch.from_numpy(transform.decode(split[index]["image"], index).copy()).permute(2, 0, 1)
        params = transform.augment.sample(derive_seed(5, 2, index), decoded.shape[-2:])
        assert torch.equal(image, transform.augment.apply(decoded, params, [16, 16]))


def test_crops_have_the_distribution_of_torchvisions_crops() -> None:
    crop, image = v2.RandomResizedCrop((16, 16), scale=(0.1, 1.0)), torch.empty(3, 300, 500)
    torch.manual_seed(0)
    expected = [list(crop.make_params([image]).values()) for _ in range(2000)]
    generator = random.Random(0)
    actual = [sample_crop(generator, (300, 500), min_area=0.1) for _ in range(2000)]
    for ours, theirs in zip(zip(*actual, strict=True), zip(*expected, strict=True), strict=True):
        for quantile in (0.1, 0.5, 0.9):
            assert np.quantile(ours, quantile) == pytest.approx(np.quantile(theirs, quantile), abs=12)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1), (3, 50)])
def test_a_crop_is_inside_an_image_of_any_shape(size: tuple[int, int]) -> None:
    generator = random.Random(0)
    for _ in range(200):
        top, left, height, width = sample_crop(generator, size, min_area=0.08)
        assert 0 < height <= size[0] - top
        assert 0 < width <= size[1] - left
        assert top >= 0 <= left


@pytest.mark.parametrize("resample", [0, 1, 2, 3])
def test_a_crop_is_resized_for_every_resampling_filter(resample: int) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    images = split_of([{"bytes": as_jpeg(PIL.Image.fromarray(np.ascontiguousarray(ramp))), "path": None}])
    processor: Any = ViTImageProcessor(**RESIZES.to_dict() | {"resample": resample})
    resized = pixels(TrainTransform(processor, ImageArguments(crop_scale=1.0, hflip=0.0), seed=0), images)
    assert resized.shape == (1, 3, 16, 16)
    assert (resized[0, 0].float().diff() > 0).all()


@pytest.mark.parametrize("images", [ImageArguments("none"), ImageArguments("rand", crop_scale=0.5, hflip=0.0)])
def test_the_flags_reach_the_network(images: ImageArguments, photos: Path, tiny_vit: Path, tmp_path: Path) -> None:
    splits = load_splits(DataArguments(dataset_name=str(photos)))
    classifier = build_classifier(ModelArguments(str(tiny_vit)), class_names=["b", "g", "r"], seed=0)
    args = FineTuningArguments(
        num_train_epochs=1, precision="fp32", dataloader_num_workers=0, disable_tqdm=True, use_cpu=True
    )
    received: list[Tensor] = []

    def record(module: torch.nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        if module.training and not inputs["pixel_values"].is_meta:  # FLOPs are counted on the meta device.
            received.append(inputs["pixel_values"].clone())

    classifier.model.register_forward_pre_hook(record, with_kwargs=True)
    settings = Settings(images=images, trainer=args)
    fit(classifier, load_images(splits, classifier.processor, settings), folder=tmp_path, settings=settings)
    transform = TrainTransform(classifier.processor, images, seed=args.seed)
    expected = Normalize(classifier.processor)(torch.stack(transform(splits["train"][:])["pixel_values"]))
    assert {image.numpy().tobytes() for image in torch.cat(received)} == {x.numpy().tobytes() for x in expected}
