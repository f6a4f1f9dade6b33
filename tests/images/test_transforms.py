"""Evaluation sees exactly the output of the processor; augmentation is a function of (seed, epoch, index)."""

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import normalize
from transformers import AutoImageProcessor, BitImageProcessor, ViTImageProcessor, pipeline

from pipeline.arguments.images import ImageArguments
from pipeline.errors import BadImageError
from pipeline.evaluation import scoring
from pipeline.images.augmentation import derive_seed
from pipeline.images.processor import Normalize, input_size
from pipeline.images.transforms import EvalTransform, TrainTransform, collate, shrink
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from tests.conftest import noisy_image, save_vit

RESIZES: Any = ViTImageProcessor(
    size={"height": 16, "width": 16}, image_mean=[0.4] * 3, image_std=[0.3] * 3, resample=3
)
CROPS: Any = BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})
BASIC = ImageArguments()
PROCESSORS = pytest.mark.parametrize("processor", [RESIZES, CROPS], ids=["resizes", "crops"])


def as_png(image: PIL.Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def as_jpeg(image: PIL.Image.Image, *, orientation: int = 1) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def jpeg_variants() -> dict[str, bytes]:
    """Return JPEGs by name. They are not square, and lighter on the left, so that tests notice every rotation."""
    noise = np.asarray(noisy_image((120, 60, 90), 1, size=(37, 23))).astype(float)
    image = PIL.Image.fromarray((noise + np.linspace(90, 0, 37)[None, :, None]).astype(np.uint8))
    return {
        "wide": as_jpeg(image),
        "tall": as_jpeg(image.transpose(PIL.Image.Transpose.ROTATE_90)),
        "grey": as_jpeg(image.convert("L")),
        "cmyk": as_jpeg(image.convert("CMYK")),
        "rotated": as_jpeg(image, orientation=6),
        "mirrored": as_jpeg(image, orientation=2),
    }


@pytest.fixture
def jpegs(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "jpegs"
    folder.mkdir()
    for name, data in jpeg_variants().items():
        (folder / f"{name}.jpg").write_bytes(data)
    return sorted(folder.iterdir())


def split_of(images: list[dict[str, Any]], *, start: int = 0) -> datasets.Dataset:
    """Return a split whose `index` counts from `start`."""
    columns = {
        "image": images,
        "label": [number % 3 for number in range(len(images))],
        "index": list(range(start, start + len(images))),
    }
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.Value("int64"), "index": datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    """Return twelve images of 40 x 30 pixels, as bytes."""
    images = [noisy_image((90, 120, 60), seed, size=(40, 30)) for seed in range(12)]
    return split_of([{"bytes": as_jpeg(image), "path": None} for image in images])


def batch_of(split: datasets.Dataset, rows: list[int]) -> dict[str, list[Any]]:
    return {name: [split[row][name] for row in rows] for name in ("image", "label", "index")}


def pixels(transform: Any, split: datasets.Dataset, rows: list[int] | None = None) -> Tensor:
    batch = transform(batch_of(split, list(range(len(split))) if rows is None else rows))
    return torch.stack(batch["pixel_values"])


def normalized_pixels(transform: Any, split: datasets.Dataset) -> Tensor:
    """Return the input of the network."""
    return Normalize(transform.processor)(pixels(transform, split))


def upright(path: Path) -> PIL.Image.Image:
    """Return the image of a file of the fixture `jpegs`, upright and in RGB."""
    image: PIL.Image.Image = PIL.Image.open(path)
    operations = {"rotated": PIL.Image.Transpose.ROTATE_270, "mirrored": PIL.Image.Transpose.FLIP_LEFT_RIGHT}
    if path.stem in operations:
        image = image.transpose(operations[path.stem])
    return image.convert("RGB")


@PROCESSORS
def test_evaluation_sees_exactly_the_output_of_the_saved_processor(
    processor: Any, jpegs: list[Path], tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path / "saved")
    saved = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    ours = pixels(EvalTransform(processor), split_of([{"bytes": None, "path": str(path)} for path in jpegs]))
    for image, path in zip(ours, jpegs, strict=True):
        assert torch.equal(image, saved(images=upright(path), return_tensors="pt")["pixel_values"][0]), path.name
    assert ours.shape == (len(jpegs), 3, 16, 16)
    assert ours.dtype == torch.float32


@PROCESSORS
def test_the_logits_equal_those_of_the_transformers_pipeline(processor: Any, jpegs: list[Path], tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "model", num_labels=4, initializer_range=0.2)
    processor.save_pretrained(folder)
    classifier = ImageClassifier.load(str(folder))
    rows = split_of([{"bytes": None, "path": str(path)} for path in jpegs])
    ours = scoring.score(classifier, rows, LoaderOptions(4), name="test")
    classify = pipeline("image-classification", model=str(folder), dtype=torch.float32, device="cpu")
    for logits, path in zip(ours.logits, jpegs, strict=True):
        answers = classify(str(path), top_k=4, function_to_apply="none")
        theirs = {answer["label"]: answer["score"] for answer in answers}
        assert theirs == pytest.approx(dict(zip(classifier.class_names, logits.tolist(), strict=True)), abs=1e-4)
    assert np.min(np.ptp(ours.logits, axis=0)) > 1e-2  # The images have different logits.


def test_training_pixels_depend_only_on_seed_epoch_and_index(split: datasets.Dataset) -> None:
    expected = pixels(TrainTransform(RESIZES, BASIC, seed=1), split)
    torch.manual_seed(99)
    backwards = pixels(TrainTransform(RESIZES, BASIC, seed=1), split, rows=list(range(12))[::-1])
    assert torch.equal(backwards.flip(0), expected)
    one_by_one = [pixels(TrainTransform(RESIZES, BASIC, seed=1), split, rows=[row])[0] for row in range(12)]
    assert torch.equal(torch.stack(one_by_one), expected)


def test_pixels_change_with_the_seed_the_epoch_and_the_index(split: datasets.Dataset) -> None:
    same_image = split_of([split[0]["image"]] * 12)
    transform = TrainTransform(RESIZES, BASIC, seed=1)
    first = pixels(transform, same_image)
    assert len(first.flatten(1).unique(dim=0)) == 12
    assert not any(
        torch.equal(*pair)
        for pair in zip(first, pixels(TrainTransform(RESIZES, BASIC, seed=2), same_image), strict=True)
    )
    transform.epoch.fill_(1)
    assert not any(torch.equal(*pair) for pair in zip(first, pixels(transform, same_image), strict=True))


def test_half_of_the_images_are_flipped_and_crops_vary_in_size() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    ramps = split_of([{"bytes": as_png(PIL.Image.fromarray(np.ascontiguousarray(ramp))), "path": None}] * 200)
    augmented = pixels(TrainTransform(RESIZES, BASIC, seed=0), ramps)
    slope = (augmented[:, 0, :, -1].float() - augmented[:, 0, :, 0]).mean(1)
    assert 70 < int((slope < 0).sum()) < 130
    assert slope.abs().max() > 1.5 * slope.abs().min()


def test_derived_seeds_are_distinct() -> None:
    seeds = {derive_seed(seed, epoch, index) for seed in range(8) for epoch in range(8) for index in range(8)}
    assert len(seeds) == 512
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 11, 1) != derive_seed(11, 1, 1)


def test_the_global_generator_is_restored(split: datasets.Dataset) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pixels(TrainTransform(RESIZES, BASIC, seed=1), split)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("start_method", "workers"), [(None, 0), ("fork", 2), ("spawn", 1)], ids=["no workers", "2 forked", "1 spawned"]
)
def test_workers_give_the_same_pixels_and_notice_a_new_epoch(
    split: datasets.Dataset, start_method: str | None, workers: int
) -> None:
    transform = TrainTransform(CROPS, BASIC, seed=3)
    loader = DataLoader(
        split.with_transform(transform),
        batch_size=5,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=start_method,
        persistent_workers=workers > 0,
    )
    epochs = []
    for epoch in (0, 1):
        transform.epoch.fill_(epoch)
        expected = TrainTransform(CROPS, BASIC, seed=3)
        expected.epoch.fill_(epoch)
        batches = list(loader)
        epochs.append(torch.cat([batch["pixel_values"] for batch in batches]))
        assert torch.equal(epochs[-1], pixels(expected, split))
        assert torch.cat([batch["labels"] for batch in batches]).tolist() == list(split["label"])
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("transform", [EvalTransform(CROPS), TrainTransform(CROPS, BASIC, seed=3)])
def test_a_pickled_transform_gives_the_same_pixels(transform: Any, split: datasets.Dataset) -> None:
    copied = pickle.loads(pickle.dumps(transform))  # noqa: S301 (our own bytes)
    assert torch.equal(pixels(copied, split), pixels(transform, split))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (100 / 255 - 0.4) / 0.3),
        ({"do_rescale": False}, (100 - 0.4) / 0.3),
        ({"do_normalize": False}, 100 / 255),
        ({"do_rescale": False, "do_normalize": False}, 100.0),
        ({"rescale_factor": 1 / 127.5, "do_normalize": False}, 100 / 127.5),
    ],
)
def test_pixels_are_normalized_with_the_statistics_of_the_processor(changes: dict[str, Any], expected: float) -> None:
    processor: Any = ViTImageProcessor(**RESIZES.to_dict() | changes)
    plain = split_of([{"bytes": as_png(PIL.Image.new("RGB", (30, 20), (100, 100, 100))), "path": None}])
    for transform in (EvalTransform(processor), TrainTransform(processor, BASIC, seed=0)):
        values = normalized_pixels(transform, plain)
        assert values.dtype == torch.float32
        assert values == pytest.approx(torch.full_like(values, expected), rel=1e-5)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (RESIZES, (16, 16)),
        (ViTImageProcessor(size={"height": 12, "width": 20}), (12, 20)),
        (CROPS, (16, 16)),
        (BitImageProcessor(size={"shortest_edge": 18}, do_center_crop=False), (18, 18)),
    ],
)
def test_training_images_have_the_input_size_of_the_network(
    processor: Any, expected: tuple[int, int], split: datasets.Dataset
) -> None:
    assert input_size(processor) == expected
    assert pixels(TrainTransform(processor, BASIC, seed=0), split).shape == (12, 3, *expected)


@pytest.mark.parametrize("transform", [EvalTransform(RESIZES), TrainTransform(RESIZES, BASIC, seed=0)])
def test_a_bad_image_is_named_by_its_path_or_its_row(transform: Any) -> None:
    with pytest.raises(BadImageError, match=r"^gone/rose\.jpg: no such file"):
        pixels(transform, split_of([{"bytes": None, "path": "gone/rose.jpg"}]))
    with pytest.raises(BadImageError, match=r"^row 7: not an image"):
        pixels(transform, split_of([{"bytes": b"<html>", "path": None}], start=7))


def test_normalize_equals_torchvisions_normalize(split: datasets.Dataset) -> None:
    images = pixels(TrainTransform(CROPS, BASIC, seed=0), split)
    assert images.dtype == torch.uint8
    expected = torch.stack([normalize(image / 255, CROPS.image_mean, CROPS.image_std) for image in images])
    assert torch.allclose(Normalize(CROPS)(images), expected, rtol=0, atol=1e-6)
    assert Normalize(CROPS)(expected) is expected


def decoded_size(content: bytes, decode_size: int | None, processor: Any = RESIZES) -> tuple[int, ...]:
    transform = TrainTransform(processor, ImageArguments(decode_size=decode_size), seed=0)
    return tuple(transform.decode({"bytes": content, "path": None}, 0).shape)


@pytest.mark.parametrize(
    ("size", "decode_size", "jpeg_size", "png_size"),
    [
        ((96, 80), 36, (40, 48, 3), (36, 43, 3)),  # A JPEG is decoded at half its size, close enough to 36.
        ((96, 80), 41, (41, 49, 3), (41, 49, 3)),  # Half its size would be too small.
        ((96, 80), 80, (80, 96, 3), (80, 96, 3)),
        ((96, 80), 70, (80, 96, 3), (80, 96, 3)),  # 80 is close enough to 70.
        ((96, 80), 0, (80, 96, 3), (80, 96, 3)),
        (
            (960, 800),
            None,
            (18, 22, 3),
            (18, 22, 3),
        ),  # The default is 1.1 times 16. The JPEG is decoded at 1/8 of its size.
    ],
)
def test_decode_size_sets_the_shorter_side_of_decoded_images(
    size: tuple[int, int], decode_size: int | None, jpeg_size: tuple[int, ...], png_size: tuple[int, ...]
) -> None:
    image = noisy_image((90, 120, 60), 0, size=size)
    assert decoded_size(as_jpeg(image), decode_size) == jpeg_size
    assert decoded_size(as_png(image), decode_size) == png_size
    # A rotated image is decoded to the same shorter side, and is then upright.
    height, width, channels = jpeg_size
    assert decoded_size(as_jpeg(image, orientation=6), decode_size) == (width, height, channels)


def test_shrink_keeps_the_content_of_an_image() -> None:
    wide = PIL.Image.linear_gradient("L").resize((400, 200)).convert("RGB")
    small = np.asarray(shrink(wide, 50), dtype=float)
    assert small.shape == (50, 100, 3)
    exact = np.asarray(wide, dtype=float).reshape(50, 4, 100, 4, 3).mean((1, 3))
    assert np.abs(small - exact)[2:-2, 2:-2].max() < 2


def test_decoded_training_images_have_the_content_of_the_file(jpegs: list[Path]) -> None:
    for path in jpegs:
        row = {"bytes": None, "path": str(path)}
        small = TrainTransform(RESIZES, ImageArguments(decode_size=8), seed=0).decode(row, 0)
        decoded = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float()
        full = torch.from_numpy(np.array(upright(path))).permute(2, 0, 1)[None].float()
        blurred = [torch.nn.functional.interpolate(x, (4, 4), mode="bilinear", antialias=True) for x in (decoded, full)]
        assert (blurred[0] - blurred[1]).abs().max() < 12, path.name


@pytest.mark.parametrize("transform", [EvalTransform(RESIZES), TrainTransform(RESIZES, ImageArguments("none"), seed=0)])
def test_the_evaluation_transform_accepts_rows_without_labels(transform: Any, split: datasets.Dataset) -> None:
    labeled, unlabeled = split.with_transform(transform), split.remove_columns("label").with_transform(transform)
    assert labeled[0].keys() == {"pixel_values", "labels"}
    assert unlabeled[0].keys() == {"pixel_values"}
    assert torch.equal(unlabeled[3]["pixel_values"], labeled[3]["pixel_values"])


def test_collate_stacks_rows_with_and_without_labels(split: datasets.Dataset) -> None:
    rows = split.with_transform(EvalTransform(RESIZES)).__getitems__([0, 1, 2])
    batch = collate(rows)
    assert batch.keys() == {"pixel_values", "labels"}
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [0, 1, 2]
    unlabeled = collate([{"pixel_values": row["pixel_values"]} for row in rows])
    assert unlabeled.keys() == {"pixel_values"}
    assert torch.equal(unlabeled["pixel_values"], batch["pixel_values"])
