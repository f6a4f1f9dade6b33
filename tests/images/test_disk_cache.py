"""Kept images are the same pixels as decoded ones; what is not whole is made anew; what does not pay is not kept."""

import json
import logging
import os
import pickle
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

from pipeline.arguments.images import AugmentationArguments
from pipeline.errors import BadImageError
from pipeline.images import disk_cache
from pipeline.images.disk_cache import cache_decoded, is_cached
from pipeline.images.transforms import TrainTransform, collate
from tests.conftest import draw_image
from tests.images.test_transforms import as_jpeg, as_png, split_of

FOREVER = 10**9  # epochs: what is kept pays, however few images there are
RESIZES: Any = ViTImageProcessor(
    size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.3] * 3, resample=3
)
BASIC = AugmentationArguments()


def images(count: int = 12) -> datasets.Dataset:
    """Of several sizes and both formats."""
    made = [draw_image((90, 120, 60), seed, size=(40 + 3 * seed, 30 + seed)) for seed in range(count)]
    return split_of([{"bytes": (as_png if i % 3 else as_jpeg)(image), "path": None} for i, image in enumerate(made)])


def training(**flags: Any) -> TrainTransform:
    return TrainTransform(RESIZES, AugmentationArguments(**flags), seed=1)


def keep(split: datasets.Dataset, transform: Any, *, epochs: float = FOREVER, limit_gb: float = 1) -> datasets.Dataset:
    return cache_decoded(split, transform, limit_gb=limit_gb, epochs=epochs, split_name="train")


def folders(root: Path) -> list[Path]:
    return [path for path in (root / "vit-pipeline" / "decoded").glob("*") if path.is_dir()]


def seen(split: datasets.Dataset, transform: Any) -> list[Tensor]:
    return [row["pixel_values"] for row in split.with_transform(transform).__getitems__(list(range(len(split))))]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


@pytest.mark.parametrize("flags", [{}, {"augmentation": "rand", "random_erasing": 0.5}, {"decode_size": 0}])
def test_kept_images_are_drawn_from_as_decoded_ones_are(flags: dict[str, Any], root: Path) -> None:
    split, transform = images(), training(**flags)
    kept = keep(split, transform)
    assert all(is_cached(value) for value in kept["image"])
    for epoch in (0, 1):
        transform.epoch.fill_(epoch)
        assert_same(seen(kept, transform), seen(split, transform))
    assert [kept[name][:] for name in ("label", "index")] == [split[name][:] for name in ("label", "index")]
    assert kept.features["label"] == split.features["label"]
    assert len(folders(root)) == 1


def test_rows_that_were_chosen_or_shuffled_keep_their_pixels() -> None:
    split, transform = images(), training()
    chosen = split.select([7, 2, 9, 2])
    kept = keep(chosen, transform)
    assert_same(seen(kept, transform), seen(chosen, transform))
    again = keep(split, transform).shuffle(seed=3)
    assert_same(seen(again, transform), seen(split.select(list(again["index"])), transform))


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_what_is_kept(start: str, workers: int) -> None:
    split, transform = images(), training()
    rows = keep(split, transform).with_transform(transform)
    loader = DataLoader(rows, batch_size=5, collate_fn=collate, num_workers=workers, multiprocessing_context=start)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), torch.stack(seen(split, transform)))
    assert_same([row["pixel_values"] for row in pickle.loads(pickle.dumps(rows))], seen(split, transform))  # noqa: S301


def test_a_second_run_decodes_nothing(root: Path) -> None:
    class Counting(TrainTransform):
        decoded = 0

        def decode(self, row: dict[str, Any], index: int) -> disk_cache.Pixels:
            self.decoded += 1
            return super().decode(row, index)

    first, second = Counting(RESIZES, BASIC, seed=1), Counting(RESIZES, BASIC, seed=2)
    split = images()
    keep(split, first)
    assert first.decoded >= len(split)
    kept = keep(split, second)
    seen(kept, second)
    assert second.decoded == 0
    assert len(folders(root)) == 1


def test_other_images_and_other_sizes_are_kept_apart(root: Path) -> None:
    split = images()
    for number, (rows, transform) in enumerate(
        [(split, training()), (split.select(range(11)), training()), (split, training(decode_size=25))]
    ):
        keep(rows, transform)
        assert len(folders(root)) == number + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"limit_gb": 0}, "--image_cache_gb is 0"),
        ({"epochs": 1}, "they are seen only once"),
        ({"epochs": 2}, r"to keep them would save 0\.\d+ s"),
        ({"limit_gb": 1e-6}, "to keep them takes .*e-05 GB, and --image_cache_gb is 1e-06"),
    ],
)
def test_nothing_is_kept_that_does_not_pay(
    changes: dict[str, Any], reason: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    split = images()
    assert keep(split, training(), **changes) is split
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pipeline.images.disk_cache"]
    pytest.importorskip("re")
    import re

    assert re.fullmatch(f"train images are decoded as they are needed: {reason}", line)
    assert folders(root) == []


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1000)


@pytest.mark.parametrize("damage", ["cut", "no record", "no pixels", "other version", "no JSON"])
def test_a_cache_that_is_not_whole_is_made_anew(damage: str, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    split, transform = images(), training()
    keep(split, transform)
    (folder,) = folders(root)
    record = folder / "whole.json"
    match damage:
        case "cut":
            cut(folder / "pixels.arrow")
        case "no record":
            record.unlink()
        case "no pixels":
            (folder / "pixels.arrow").unlink()
        case "other version":
            record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 0}))
        case "no JSON":
            record.write_text("{")
    disk_cache._open.cache_clear()  # as another run would find it
    kept = keep(split, transform)
    assert_same(seen(kept, transform), seen(split, transform))
    assert [r.levelname for r in caplog.records if "is damaged or was made otherwise" in r.getMessage()] == ["WARNING"]
    caplog.clear()
    keep(split, transform)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_a_run_that_is_killed_while_it_decodes_leaves_nothing_that_passes_for_whole(root: Path) -> None:
    slow = (
        "import sys, time, datasets, pickle, pathlib\n"
        "from tests.images import test_disk_cache as t\n"
        "class Slow(t.TrainTransform):\n"
        "    def decode(self, row, index):\n"
        "        time.sleep(0.05 if index < 9 else 60)\n"
        "        return super().decode(row, index)\n"
        "t.cache._SAMPLE, t.cache._BATCH_BYTES, t.cache._SERIAL_BELOW = 1, 5000, 1e9\n"
        "t.datasets.config.HF_DATASETS_CACHE = pathlib.Path(sys.argv[1])\n"
        "t.keep(t.images(), Slow(t.RESIZES, t.BASIC, seed=1))\n"
    )
    partial = root / "vit-pipeline" / "decoded"
    with subprocess.Popen([sys.executable, "-c", slow, str(root)], cwd=Path(__file__).parents[2]) as process:
        deadline = time.monotonic() + 60
        while not any(file.stat().st_size > 5000 for file in partial.glob("*.partial/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert [path.suffix for path in folders(root)] == [".partial"]
    split, transform = images(), training()
    kept = keep(split, transform)
    assert is_cached(kept[0]["image"])
    assert_same(seen(kept, transform), seen(split, transform))
    assert [path.suffix for path in folders(root)] == [""]


def test_a_folder_that_cannot_be_written_costs_a_warning_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    split = images()
    assert keep(split, training()) is split
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "set HF_DATASETS_CACHE to a folder with room, or pass --image_cache_gb 0" in line


def test_all_cores_make_the_same_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "_SERIAL_BELOW", 0)
    monkeypatch.setattr("pipeline.performance.machine.usable_cores", lambda: 3)
    split, transform = images(), training()
    assert_same(seen(keep(split, transform), transform), seen(split, transform))
    assert [len(list(folder.glob("*.arrow"))) for folder in folders(root)] == [3]


def test_a_bad_image_is_named_and_nothing_is_left(root: Path) -> None:
    split = split_of([*images(12)["image"][:], {"bytes": b"<html>", "path": "rose.jpg"}, *images(12)["image"][:]])
    with pytest.raises(BadImageError, match=r"^rose\.jpg: not an image"):
        keep(split, training())
    assert folders(root) == []


def test_kept_pixels_are_read_from_the_file_and_not_copied() -> None:
    kept = keep(images(), training())
    first, again = (disk_cache.read(kept[3]["image"]) for _ in range(2))
    assert first.data_ptr() == again.data_ptr()
