"""Cached pixels equal decoded pixels; an incomplete cache is rebuilt; a cache that saves no time is not built."""

import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from pipeline.arguments.images import ImageArguments
from pipeline.errors import BadImageError
from pipeline.images import disk_cache, pixel_files
from pipeline.images.disk_cache import cache_decoded
from pipeline.images.pixel_files import is_cached
from pipeline.images.transforms import TrainTransform, collate
from tests.conftest import noisy_image
from tests.images.test_transforms import as_jpeg, as_png, split_of

MANY_EPOCHS = 10**9  # enough for a cache of a few images to save time
RESIZES: Any = ViTImageProcessor(
    size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.3] * 3, resample=3
)
BASIC = ImageArguments()


def images(count: int = 12) -> datasets.Dataset:
    """Return a split of JPEG and PNG images of different sizes."""
    drawn = [noisy_image((90, 120, 60), seed, size=(40 + 3 * seed, 30 + seed)) for seed in range(count)]
    return split_of([{"bytes": (as_png if i % 3 else as_jpeg)(image), "path": None} for i, image in enumerate(drawn)])


def transform_with(**flags: Any) -> TrainTransform:
    return TrainTransform(RESIZES, ImageArguments(**flags), seed=1)


def cache(
    split: datasets.Dataset, transform: Any, *, epochs: float = MANY_EPOCHS, limit_gb: float = 1
) -> datasets.Dataset:
    return cache_decoded(split, transform, limit_gb=limit_gb, epochs=epochs, split_name="train")


def folders(root: Path) -> list[Path]:
    return [path for path in (root / "vit-pipeline" / "decoded").glob("*") if path.is_dir()]


def pixels_of(split: datasets.Dataset, transform: Any) -> list[Tensor]:
    return [row["pixel_values"] for row in split.with_transform(transform).__getitems__(list(range(len(split))))]


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


@pytest.mark.parametrize("flags", [{}, {"augmentation": "rand", "random_erasing": 0.5}, {"decode_size": 0}])
def test_cached_images_are_augmented_exactly_as_decoded_images(flags: dict[str, Any], root: Path) -> None:
    split, transform = images(), transform_with(**flags)
    cached = cache(split, transform)
    assert all(is_cached(value) for value in cached["image"])
    for epoch in (0, 1):
        transform.epoch.fill_(epoch)
        assert_equal(pixels_of(cached, transform), pixels_of(split, transform))
    assert [cached[name][:] for name in ("label", "index")] == [split[name][:] for name in ("label", "index")]
    assert cached.features["label"] == split.features["label"]
    assert len(folders(root)) == 1


def test_selected_and_shuffled_rows_keep_their_pixels() -> None:
    split, transform = images(), transform_with()
    selected = split.select([7, 2, 9, 2])
    cached = cache(selected, transform)
    assert_equal(pixels_of(cached, transform), pixels_of(selected, transform))
    shuffled = cache(split, transform).shuffle(seed=3)
    assert_equal(pixels_of(shuffled, transform), pixels_of(split.select(list(shuffled["index"])), transform))


@pytest.mark.parametrize(("start_method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_the_cache(start_method: str, workers: int) -> None:
    split, transform = images(), transform_with()
    rows = cache(split, transform).with_transform(transform)
    loader = DataLoader(
        rows, batch_size=5, collate_fn=collate, num_workers=workers, multiprocessing_context=start_method
    )
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), torch.stack(pixels_of(split, transform)))
    assert_equal([row["pixel_values"] for row in pickle.loads(pickle.dumps(rows))], pixels_of(split, transform))  # noqa: S301


def test_a_second_run_decodes_nothing(root: Path) -> None:
    class Counting(TrainTransform):
        decoded = 0

        def decode(self, row: dict[str, Any], index: int) -> pixel_files.Pixels:
            self.decoded += 1
            return super().decode(row, index)

    first, second = Counting(RESIZES, BASIC, seed=1), Counting(RESIZES, BASIC, seed=2)
    split = images()
    cache(split, first)
    assert first.decoded >= len(split)
    cached = cache(split, second)
    pixels_of(cached, second)
    assert second.decoded == 0
    assert len(folders(root)) == 1


def test_other_images_and_other_decode_sizes_have_their_own_folder(root: Path) -> None:
    split = images()
    cases = [
        (split, transform_with()),
        (split.select(range(11)), transform_with()),
        (split, transform_with(decode_size=25)),
    ]
    for number, (rows, transform) in enumerate(cases, start=1):
        cache(rows, transform)
        assert len(folders(root)) == number


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"limit_gb": 0}, "--image_cache_gb is 0"),
        ({"epochs": 1}, "each image is used only once"),
        ({"epochs": 2}, r"a cache would save only 0\.\d+ s"),
        ({"limit_gb": 1e-6}, "a cache needs .*e-05 GB, and --image_cache_gb is 1e-06"),
    ],
)
def test_nothing_is_cached_if_a_cache_is_not_worthwhile(
    changes: dict[str, Any], reason: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    split = images()
    assert cache(split, transform_with(), **changes) is split
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pipeline.images.disk_cache"]
    assert re.fullmatch(f"decoding train images on the fly: {reason}", line)
    assert folders(root) == []


@pytest.mark.parametrize(
    "damage", ["truncated", "no manifest", "no pixels", "other version", "invalid JSON", "no list"]
)
def test_a_corrupt_or_outdated_cache_is_rebuilt(damage: str, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    split, transform = images(), transform_with()
    cache(split, transform)
    (folder,) = folders(root)
    manifest = folder / "whole.json"
    match damage:
        case "truncated":
            os.truncate(folder / "pixels.arrow", (folder / "pixels.arrow").stat().st_size - 1000)
        case "no manifest":
            manifest.unlink()
        case "no pixels":
            (folder / "pixels.arrow").unlink()
        case "other version":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 0}))
        case "invalid JSON":
            manifest.write_text("{")
        case "no list":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": ["pixels.arrow"]}))
    pixel_files._open_folder.cache_clear()  # A new process would not have mapped the files yet.
    cached = cache(split, transform)
    assert_equal(pixels_of(cached, transform), pixels_of(split, transform))
    assert [r.levelname for r in caplog.records if "is corrupt or outdated; rebuilding it" in r.getMessage()] == [
        "WARNING"
    ]
    caplog.clear()
    cache(split, transform)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_no_flipped_byte_of_a_cache_is_used(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the pixels nor in the offsets, sizes and names around them."""
    split, transform = images(4), transform_with()
    cache(split, transform)
    (folder,) = folders(root)
    expected = (folder / "pixels.arrow").read_bytes()
    for file in ("pixels.arrow", "whole.json"):
        content = (folder / file).read_bytes()
        for position in range(len(content) // 40, len(content), len(content) // 12):
            (folder / file).write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            pixel_files._open_folder.cache_clear()
            caplog.clear()
            assert_equal(pixels_of(cache(split, transform), transform), pixels_of(split, transform))
            assert "is corrupt or outdated; rebuilding it" in caplog.text, (file, position)
            assert (folder / "pixels.arrow").read_bytes() == expected


def test_a_run_that_is_killed_while_it_decodes_leaves_no_complete_cache(root: Path) -> None:
    slow = (
        "import sys, time, datasets, pickle, pathlib\n"
        "from tests.images import test_disk_cache as t\n"
        "class Slow(t.TrainTransform):\n"
        "    def decode(self, row, index):\n"
        "        time.sleep(0.05 if index < 9 else 60)\n"
        "        return super().decode(row, index)\n"
        "t.disk_cache._SAMPLES, t.disk_cache._BATCH_BYTES, t.disk_cache._PARALLEL_FROM = 1, 5000, 1e9\n"
        "t.datasets.config.HF_DATASETS_CACHE = pathlib.Path(sys.argv[1])\n"
        "t.cache(t.images(), Slow(t.RESIZES, t.BASIC, seed=1))\n"
    )
    partial = root / "vit-pipeline" / "decoded"
    with subprocess.Popen([sys.executable, "-c", slow, str(root)], cwd=Path(__file__).parents[2]) as process:
        deadline = time.monotonic() + 300  # Imports are slow on a busy machine.
        while not any(file.stat().st_size > 5000 for file in partial.glob("*.partial/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert [path.suffix for path in folders(root)] == [".partial"]
    split, transform = images(), transform_with()
    cached = cache(split, transform)
    assert is_cached(cached[0]["image"])
    assert_equal(pixels_of(cached, transform), pixels_of(split, transform))
    assert [path.suffix for path in folders(root)] == [""]


def test_a_folder_that_cannot_be_written_gives_a_warning_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    split = images()
    assert cache(split, transform_with()) is split
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "set HF_DATASETS_CACHE to a folder with free space, or pass --image_cache_gb 0" in line


def test_several_processes_write_the_same_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "_PARALLEL_FROM", 0)
    monkeypatch.setattr("pipeline.performance.machine.usable_cores", lambda: 3)
    split, transform = images(), transform_with()
    assert_equal(pixels_of(cache(split, transform), transform), pixels_of(split, transform))
    assert [len(list(folder.glob("*.arrow"))) for folder in folders(root)] == [3]


def test_a_bad_image_is_named_and_no_cache_is_left(root: Path) -> None:
    split = split_of([*images(12)["image"][:], {"bytes": b"<html>", "path": "rose.jpg"}, *images(12)["image"][:]])
    with pytest.raises(BadImageError, match=r"^rose\.jpg: not an image"):
        cache(split, transform_with())
    assert folders(root) == []


def test_cached_pixels_are_memory_mapped_and_not_copied() -> None:
    cached = cache(images(), transform_with())
    first, second = (pixel_files.read(cached[3]["image"]) for _ in range(2))
    assert first.data_ptr() == second.data_ptr()
