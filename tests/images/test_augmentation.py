"""Each policy does something, and only what (seed, epoch, index) say; the three flags reach the network."""

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

from pipeline.arguments.data import DataArguments
from pipeline.arguments.images import AugmentationArguments, Policy
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.sources import load_splits
from pipeline.errors import PipelineError
from pipeline.images.augmentation import sample_crop
from pipeline.images.processor import Normalize
from pipeline.images.transforms import EvalTransform, TrainTransform, collate
from pipeline.models.build import build_model
from pipeline.training.fit import fit
from tests.conftest import draw_image
from tests.images.test_transforms import as_jpeg, numbers, pixels, split_of

POLICIES: tuple[Policy, ...] = get_args(Policy)
DRAWN = pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "none"])
BEYOND_BASIC = pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy not in ("none", "basic")])
RESIZES: Any = ViTImageProcessor(
    size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.3] * 3, resample=3
)
CROPS: Any = BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    """Twenty-four images of 40 x 30 pixels, as bytes."""
    images = [draw_image((90, 120, 60), seed, size=(40, 30)) for seed in range(24)]
    return split_of([{"bytes": as_jpeg(image), "path": None} for image in images])


@pytest.fixture(scope="module")
def ramps() -> datasets.Dataset:
    """A hundred times the same square, ever lighter to the right: a crop's slope is its share of the width."""
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    return split_of([{"bytes": as_jpeg(PIL.Image.fromarray(np.ascontiguousarray(ramp))), "path": None}] * 100)


def transform(policy: Policy, *, epoch: int = 0, seed: int = 1, processor: Any = RESIZES) -> TrainTransform:
    made = TrainTransform(processor, AugmentationArguments(policy), seed=seed)
    made.epoch.fill_(epoch)
    return made


def slopes(split: datasets.Dataset, **flags: Any) -> Tensor:
    """From the left edge to the right one, as a share of the whole picture's; negative where it is flipped."""
    drawn = pixels(TrainTransform(RESIZES, AugmentationArguments(**flags), seed=0), split) / 255
    return (drawn[:, 0, :, -1] - drawn[:, 0, :, 0]).mean(1)


def _global_states() -> tuple[Any, ...]:
    """Of every generator that a transform could draw from unkeyed."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 (the global one)
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2], torch.get_rng_state().tolist()


@BEYOND_BASIC
def test_a_policy_changes_most_images_beyond_their_crop_and_flip(policy: Policy, split: datasets.Dataset) -> None:
    basic, drawn = pixels(transform("basic"), split), pixels(transform(policy), split)
    changed = [not torch.equal(*pair) for pair in zip(basic, drawn, strict=True)]
    assert sum(changed) > len(changed) / 2
    assert drawn.shape == basic.shape
    assert drawn.dtype == torch.uint8


def test_policies_differ_from_each_other(split: datasets.Dataset) -> None:
    every = torch.stack([numbers(transform(policy), split).flatten() for policy in POLICIES])
    assert len(every.unique(dim=0)) == len(POLICIES)


@pytest.mark.parametrize("processor", [RESIZES, CROPS], ids=["resizes", "crops"])
def test_none_sees_what_evaluation_sees_in_every_epoch(processor: Any, split: datasets.Dataset) -> None:
    expected = pixels(EvalTransform(processor), split)
    for epoch in (0, 1):
        assert torch.equal(pixels(transform("none", epoch=epoch, processor=processor), split), expected)


@DRAWN
def test_pixels_are_a_function_of_seed_epoch_and_index_alone(policy: Policy, split: datasets.Dataset) -> None:
    first = pixels(transform(policy), split)
    states = _global_states()
    backwards = pixels(transform(policy), split, rows=list(range(24))[::-1])
    assert _global_states() == states
    assert torch.equal(backwards.flip(0), first)
    for other in (transform(policy, epoch=1), transform(policy, seed=2)):
        changed = [not torch.equal(*pair) for pair in zip(first, pixels(other, split), strict=True)]
        assert all(changed)


@pytest.mark.parametrize("policy", POLICIES)
def test_workers_draw_what_no_workers_draw(policy: Policy, split: datasets.Dataset) -> None:
    keyed = transform(policy)
    loader = DataLoader(split.with_transform(keyed), batch_size=5, collate_fn=collate, num_workers=2)
    for epoch in (0, 1):
        keyed.epoch.fill_(epoch)
        seen = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(seen, pixels(transform(policy, epoch=epoch), split))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pickled_transform_does_the_same(policy: Policy, split: datasets.Dataset) -> None:
    again = pickle.loads(pickle.dumps(transform(policy)))  # noqa: S301 (our own bytes)
    assert torch.equal(pixels(again, split), pixels(transform(policy), split))


def test_what_a_turn_leaves_empty_has_the_processors_mean() -> None:
    white = split_of([{"bytes": as_jpeg(PIL.Image.new("RGB", (32, 32), "white")), "path": None}] * 150)
    drawn = numbers(transform("trivial"), white)
    whole = drawn[(drawn[:, :, 8, 8] > 1).all(1)]  # the middle is as white as it was
    corners = whole[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    empty = (corners.abs() < 0.5 / 255 / 0.3 + 1e-5).all(1)  # the mean, rounded to a byte
    assert 10 < int(empty.any(1).sum()) < len(whole)
    assert corners.min() > -0.5  # black would be at -1.3 to -2


def test_the_smallest_crop_is_what_crop_scale_says(ramps: datasets.Dataset) -> None:
    assert slopes(ramps, hflip=0.0).min() < 0.5
    assert slopes(ramps, hflip=0.0, crop_scale=0.9).min() > 0.8


@pytest.mark.parametrize(("hflip", "least", "most"), [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
def test_as_many_are_flipped_as_hflip_says(ramps: datasets.Dataset, hflip: float, least: int, most: int) -> None:
    assert least <= int((slopes(ramps, hflip=hflip) < 0).sum()) <= most


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"crop_scale": 0.0}, r"^--crop_scale 0\.0: a share of the area"),
        ({"crop_scale": 1.1}, r"^--crop_scale 1\.1: "),
        ({"crop_scale": float("nan")}, r"^--crop_scale nan: "),
        ({"hflip": -0.1}, r"^--hflip -0\.1: a probability between 0 and 1"),
        ({"hflip": 50.0}, r"^--hflip 50\.0: "),
        ({"hflip": 2.0, "crop_scale": 2.0}, r"^--crop_scale 2\.0: .*\n--hflip 2\.0: .*$"),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_its_flag(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        AugmentationArguments(**flags)
    assert len(str(caught.value).splitlines()) == len(flags)


def test_crops_are_distributed_as_torchvisions() -> None:
    theirs, image = v2.RandomResizedCrop((16, 16), scale=(0.1, 1.0)), torch.empty(3, 300, 500)
    torch.manual_seed(0)
    expected = [list(theirs.make_params([image]).values()) for _ in range(2000)]
    draw = random.Random(0)
    drawn = [sample_crop(draw, (300, 500), smallest=0.1) for _ in range(2000)]
    for ours, torchvisions in zip(zip(*drawn, strict=True), zip(*expected, strict=True), strict=True):
        for quantile in (0.1, 0.5, 0.9):
            assert np.quantile(ours, quantile) == pytest.approx(np.quantile(torchvisions, quantile), abs=12)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1), (3, 50)])
def test_a_crop_lies_within_an_image_of_any_shape(size: tuple[int, int]) -> None:
    draw = random.Random(0)
    for _ in range(200):
        top, left, height, width = sample_crop(draw, size, smallest=0.08)
        assert 0 < height <= size[0] - top
        assert 0 < width <= size[1] - left
        assert top >= 0 <= left


@pytest.mark.parametrize("resample", [0, 1, 2, 3])
def test_a_crop_is_resized_as_the_processor_resizes(resample: int) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    whole = split_of([{"bytes": as_jpeg(PIL.Image.fromarray(np.ascontiguousarray(ramp))), "path": None}])
    processor: Any = ViTImageProcessor(**RESIZES.to_dict() | {"resample": resample})
    drawn = pixels(TrainTransform(processor, AugmentationArguments(crop_scale=1.0, hflip=0.0), seed=0), whole)
    assert drawn.shape == (1, 3, 16, 16)
    assert (drawn[0, 0].float().diff() > 0).all()


@pytest.mark.parametrize(
    "chosen", [AugmentationArguments("none"), AugmentationArguments("rand", crop_scale=0.5, hflip=0.0)]
)
def test_the_flags_reach_the_network(
    chosen: AugmentationArguments, photos: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    splits = load_splits(DataArguments(dataset_name=str(photos)))
    processor, model = build_model(ModelArguments(str(tiny_vit)), class_names=["b", "g", "r"], seed=0)
    args = FineTuningArguments(
        num_train_epochs=1, precision="fp32", dataloader_num_workers=0, disable_tqdm=True, use_cpu=True
    )
    seen: list[Tensor] = []

    def look(module: torch.nn.Module, _: Any, given: dict[str, Any]) -> None:
        if module.training and not given["pixel_values"].is_meta:  # where operations are only counted
            seen.append(given["pixel_values"].clone())

    model.register_forward_pre_hook(look, with_kwargs=True)
    fit(model, processor, splits, folder=tmp_path, settings=Settings(args, chosen))
    made = torch.stack(TrainTransform(processor, chosen, seed=args.seed)(splits["train"][:])["pixel_values"])
    expected = Normalize(processor)(made)
    assert {image.numpy().tobytes() for image in torch.cat(seen)} == {image.numpy().tobytes() for image in expected}
