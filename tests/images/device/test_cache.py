"""Images on the device are those of the other caches, in every epoch; what does not fit is refused or left on disk."""

import logging
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
from transformers import BitImageProcessor, ConvNextImageProcessor, ViTImageProcessor, ViTImageProcessorPil

from pipeline.arguments.checks import find_problems
from pipeline.arguments.data import DataArguments
from pipeline.arguments.images import ImageArguments, Policy
from pipeline.errors import BadImageError, PipelineError
from pipeline.images import disk_cache
from pipeline.images.device import cache
from pipeline.images.device.batches import AugmentedBatches, FixedBatches
from pipeline.images.device.cache import DeviceImages, load_on_device, load_validation
from pipeline.images.processor import Normalize
from pipeline.images.train_images import MapImages, PreparedImages, prepare_images
from pipeline.images.transforms import EvalTransform, TrainTransform, collate
from pipeline.performance.device import free_memory
from tests.conftest import noisy_image
from tests.images.test_transforms import as_jpeg, as_png, normalized_pixels, pixels, split_of

CPU = torch.device("cpu")
MANY_EPOCHS = 10**9  # enough for a disk cache of a few images to save time
SQUARE: dict[str, Any] = {"size": {"height": 16, "width": 16}}
PROCESSORS: dict[str, Any] = {
    "bicubic": ViTImageProcessor(**SQUARE, image_mean=[0.4, 0.5, 0.6], image_std=[0.3] * 3, resample=3),
    "bilinear": ViTImageProcessor(**SQUARE, resample=2),
    "nearest": ViTImageProcessor(**SQUARE, resample=0),
    "crops": BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16}),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 16}),
    "PIL": ViTImageProcessorPil(**SQUARE),
    "not rescaled": ViTImageProcessor(**SQUARE, do_rescale=False, image_mean=[100.0] * 3, image_std=[50.0] * 3),
}


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


def split_with(sizes: list[tuple[int, int]], *, start: int = 0) -> datasets.Dataset:
    images = [noisy_image((90, 120, 60), seed, size=size) for seed, size in enumerate(sizes, start)]
    return split_of(
        [{"bytes": (as_png if i % 3 else as_jpeg)(image), "path": None} for i, image in enumerate(images)], start=start
    )


@pytest.fixture(scope="module")
def train() -> datasets.Dataset:
    """Return twelve images of very different sizes, with numbers that do not start at 0."""
    return split_with([(40 + 7 * seed, 30 + seed) for seed in range(11)] + [(900, 20)], start=5)


@pytest.fixture(scope="module")
def validation() -> datasets.Dataset:
    return split_with([(30, 30 + 5 * seed) for seed in range(7)], start=100)


def transform_with(processor: str = "bicubic", **flags: Any) -> TrainTransform:
    return TrainTransform(PROCESSORS[processor], ImageArguments(**flags), seed=4)


def loaded(train: datasets.Dataset, validation: datasets.Dataset, transform: TrainTransform) -> DeviceImages:
    found = load_on_device(train, validation, transform, device=CPU, required=True)
    assert found is not None
    return found


def all_pixels(rows: AugmentedBatches | FixedBatches) -> Tensor:
    return rows.__getitems__(range(len(rows)))["pixel_values"]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_training_images_have_the_pixels_of_the_transform(
    train: datasets.Dataset, validation: datasets.Dataset, processor: str
) -> None:
    transform = transform_with(processor)
    found = loaded(train, validation, transform)
    for epoch in (0, 3):
        transform.epoch.fill_(epoch)
        difference = all_pixels(found.train).int() - pixels(transform, train).int()
        assert difference.abs().max() <= 1
        assert (difference != 0).float().mean() < 1e-3
    batch = found.train.__getitems__([11, 0, 3])
    assert batch["labels"].tolist() == [train[row]["label"] for row in (11, 0, 3)]
    assert torch.equal(batch["pixel_values"], all_pixels(found.train)[[11, 0, 3]])


@pytest.mark.parametrize("policy", [policy for policy in get_args(Policy) if policy != "none"])
def test_random_choices_of_policies_are_those_of_the_transform(
    train: datasets.Dataset, validation: datasets.Dataset, policy: Policy
) -> None:
    transform = transform_with(augmentation=policy, random_erasing=0.5)
    state = torch.get_rng_state()
    actual = all_pixels(loaded(train, validation, transform).train)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(actual, pixels(transform, train))  # no crop of these images is shrunk much


@pytest.mark.parametrize("processor", PROCESSORS)
def test_evaluation_images_are_those_of_the_processor(
    train: datasets.Dataset, validation: datasets.Dataset, processor: str
) -> None:
    transform = transform_with(processor)
    found = loaded(train, validation, transform).validation
    assert found.pixels.dtype == torch.uint8
    expected = normalized_pixels(EvalTransform(transform.processor), validation)
    assert (Normalize(transform.processor)(all_pixels(found)) - expected).abs().max() < 1e-5
    assert found.labels.tolist() == validation["label"][:]
    alone = load_validation(validation, transform, device=CPU)
    assert alone is not None
    assert torch.equal(alone.pixels, found.pixels)
    assert torch.equal(alone.labels, found.labels)


def test_pixels_that_are_not_levels_are_stored_as_floats(
    train: datasets.Dataset, validation: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that offsets its rescaled pixels differs from `Normalize`, so its own pixels are stored."""

    class Shifted(ViTImageProcessor):
        def __call__(self, *args: Any, **options: Any) -> Any:
            batch = super().__call__(*args, **options)
            batch["pixel_values"] = batch["pixel_values"] + 0.001
            return batch

    monkeypatch.setitem(PROCESSORS, "shifted", Shifted(**SQUARE))
    transform = transform_with("shifted")
    found = loaded(train, validation, transform).validation
    assert found.pixels.dtype == torch.float32
    assert torch.equal(all_pixels(found), pixels(EvalTransform(transform.processor), validation))


def test_without_augmentation_training_images_are_stored_as_in_evaluation(
    train: datasets.Dataset, validation: datasets.Dataset
) -> None:
    transform = transform_with(augmentation="none")
    found = loaded(train, validation, transform)
    actual = Normalize(transform.processor)(all_pixels(found.train))
    assert torch.allclose(actual, pixels(EvalTransform(transform.processor), train), atol=1e-5)
    assert (len(found.train), len(found.validation)) == (12, 7)


@pytest.mark.parametrize("processes", [1, 2])
def test_existing_files_of_the_disk_cache_are_read_and_none_are_written(
    train: datasets.Dataset,
    validation: datasets.Dataset,
    cache_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    monkeypatch.setattr(cache, "_PARALLEL_FROM", 0 if processes > 1 else 1e9)
    transform = transform_with()
    first = all_pixels(loaded(train, validation, transform).train)
    assert not cache_root.exists()
    disk_cache.cache_decoded(train, transform, limit_gb=1, epochs=MANY_EPOCHS, split_name="train")
    files = {path: path.stat().st_mtime_ns for path in cache_root.rglob("*")}
    monkeypatch.setattr(disk_cache, "estimate", lambda *_: (0.0, 0))
    monkeypatch.setattr(TrainTransform, "decode", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(all_pixels(loaded(train, validation, transform).train), first)
    assert {path: path.stat().st_mtime_ns for path in cache_root.rglob("*")} == files


def test_a_data_loader_without_workers_yields_complete_batches(
    train: datasets.Dataset, validation: datasets.Dataset
) -> None:
    transform = transform_with()
    rows = loaded(train, validation, transform).train
    batches = list(DataLoader(rows, batch_size=5, collate_fn=collate))
    assert [len(batch["labels"]) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), pixels(transform, train))


def test_one_image_of_one_class() -> None:
    one = split_with([(40, 30)])
    found = loaded(one, one, transform_with())
    assert all_pixels(found.train).shape == all_pixels(found.validation).shape == (1, 3, 16, 16)


def test_a_bad_image_is_named(validation: datasets.Dataset) -> None:
    bad = split_of([*split_with([(40, 30)] * 20)["image"][:], {"bytes": b"<html>", "path": "rose.jpg"}])
    with pytest.raises(BadImageError, match=r"^rose\.jpg: not an image"):
        loaded(bad, validation, transform_with())


def prepared(train: datasets.Dataset, validation: datasets.Dataset, **flags: Any) -> PreparedImages:
    args = ImageArguments(**flags)
    transform = TrainTransform(PROCESSORS["bicubic"], args, seed=4)
    return prepare_images(train, validation, transform, args, device=CPU, epochs=MANY_EPOCHS)


def test_the_cache_is_logged_in_one_line(
    train: datasets.Dataset, validation: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    found = prepared(train, validation, image_cache="device")
    images: Any = found.train.dataset
    assert found.size == images.images.starts[-1] + 7 * 3 * 16 * 16
    assert [record.getMessage() for record in caplog.records] == [f"device cache: 19 images, {found.size / 1e6:.3g} MB"]
    assert (found.cache, len(found.validation)) == ("device", 7)


@pytest.mark.parametrize(("flag", "cached"), [("auto", True), ("disk", True), ("none", False)])
def test_a_run_on_a_cpu_uses_the_device_cache_only_if_asked_for(
    train: datasets.Dataset, validation: datasets.Dataset, cache_root: Path, flag: Any, cached: bool
) -> None:
    found = prepared(train, validation, image_cache=flag)
    assert isinstance(found.train, MapImages)
    assert cache_root.exists() == cached
    assert found.cache == ("disk" if cached else "none")
    assert torch.equal(
        torch.stack([row["pixel_values"] for row in found.validation]),
        pixels(EvalTransform(PROCESSORS["bicubic"]), validation),
    )


def test_images_that_need_too_much_memory_are_refused_or_left_on_disk(
    train: datasets.Dataset,
    validation: datasets.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    monkeypatch.setattr(cache, "free_memory", lambda _: 50_000)
    with pytest.raises(PipelineError, match=r"device needs .* GB, more than 75% of .*: use --image_cache disk, or a"):
        prepared(train, validation, image_cache="device")
    assert load_on_device(train, validation, transform_with(), device=CPU, required=False) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("no device cache: it needs ")
    assert "more than 25% of the free memory (5e-05 GB) of cpu" in line


def test_a_wrong_estimate_is_corrected_after_decoding(
    train: datasets.Dataset, validation: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "free_memory", lambda _: 50_000)
    monkeypatch.setattr(disk_cache, "estimate", lambda *_: (0.0, 0))  # as if the sample had only small images
    assert load_on_device(train, validation, transform_with(), device=CPU, required=False) is None


def test_flags_that_cannot_be_combined_are_rejected() -> None:
    stream = [ImageArguments(image_cache="device"), DataArguments(dataset_name="owner/photos", streaming=True)]
    assert any("--image_cache device needs all images before training" in line for line in find_problems(stream))
    assert not list(find_problems([ImageArguments(), stream[1]]))
    no_space = [ImageArguments(image_cache="disk", image_cache_gb=0)]
    assert list(find_problems(no_space)) == [
        "--image_cache disk needs disk space, and --image_cache_gb is 0: use --image_cache none"
    ]


def test_processes_share_the_free_memory_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory(CPU) > 1e7
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000000000")
    assert free_memory(CPU) < 1e7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_crops_the_pixels_of_the_cpu(train: datasets.Dataset, validation: datasets.Dataset) -> None:
    transform = transform_with()
    found = load_on_device(train, validation, transform, device=torch.device("cuda"), required=False)
    assert found is not None
    batch = found.train.__getitems__(range(len(train)))
    assert batch["pixel_values"].device.type == batch["labels"].device.type == "cuda"
    assert torch.equal(batch["pixel_values"].cpu(), pixels(transform, train))


def test_large_photographs_of_random_sizes_within_one_level(validation: datasets.Dataset) -> None:
    """The default decode size of a ViT at 224 px, with smooth images: rounding shows on gradients, not on noise."""
    choose = random.Random(0)
    ramp = np.linspace(0, 255, 900)
    images = [
        PIL.Image.fromarray(
            np.stack([np.add.outer(ramp[:h], ramp[:w]) / 2 * tint for tint in (1, 0.7, 0.4)], -1).astype(np.uint8)
        )
        for h, w in [(choose.randint(250, 900), choose.randint(250, 900)) for _ in range(8)]
    ]
    photos = split_of([{"bytes": as_png(image), "path": None} for image in images])
    processor: Any = ViTImageProcessor(size={"height": 224, "width": 224}, resample=3)
    for decode_size in (None, 0):
        transform = TrainTransform(processor, ImageArguments(decode_size=decode_size), seed=0)
        difference = all_pixels(loaded(photos, validation, transform).train).int() - pixels(transform, photos).int()
        assert difference.abs().max() <= 1
