"""A run on the device cache equals a run on the disk cache, also after a resume; its evaluation has the same scores."""

import dataclasses
import multiprocessing.process
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor

from pipeline.arguments.images import ImageArguments
from pipeline.images.device.cache import load_validation
from pipeline.images.train_images import PreparedImages
from pipeline.images.transforms import TrainTransform
from pipeline.training.fine_tune import load_images
from tests.training.fitting import STEPS_PER_EPOCH, Fitted, same

ON_DEVICE = {"image_cache": "device"}


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augmentation": "trivial", "random_erasing": 0.3, "mixup": 0.2, "seed": 3},
        {"balanced_sampling": True},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    ],
    ids=["basic", "policy and mixup", "balanced", "accumulated"],
)
def test_a_run_has_the_images_the_order_and_the_weights_of_a_run_on_the_disk_cache(
    fitted: Callable[..., Fitted], changes: dict[str, Any]
) -> None:
    disk = fitted("disk", num_train_epochs=2, **changes)
    device = fitted("device", num_train_epochs=2, **ON_DEVICE, **changes)
    assert equal(device.seen, disk.seen)
    assert device.log("loss") == disk.log("loss")
    assert same(dict(device.model.state_dict()), dict(disk.model.state_dict()))
    assert device.log("eval_accuracy") == disk.log("eval_accuracy")
    assert device.log("eval_loss") == pytest.approx(disk.log("eval_loss"), abs=1e-5)


def test_without_augmentation_the_network_receives_the_evaluation_images(fitted: Callable[..., Fitted]) -> None:
    disk = fitted("disk", num_train_epochs=1, augmentation="none")
    device = fitted("device", num_train_epochs=1, augmentation="none", **ON_DEVICE)
    assert len(device.seen) == STEPS_PER_EPOCH
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(device.seen, disk.seen, strict=True))


@pytest.mark.parametrize("balanced", [False, True])
def test_a_run_resumed_within_an_epoch_equals_an_uninterrupted_one_bit_for_bit(
    fitted: Callable[..., Fitted], tmp_path: Path, balanced: bool
) -> None:
    changes: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}
    changes |= {"save_total_limit": None, "balanced_sampling": balanced, **ON_DEVICE}
    whole = fitted("whole", **changes)
    for step in (4, 8):
        shutil.copytree(whole.folder / f"checkpoint-{step}", tmp_path / "parts" / f"checkpoint-{step}")
    parts = fitted("parts", **changes)
    assert equal(parts.seen, whole.seen[8:])
    assert parts.log("loss") == whole.log("loss")
    assert parts.log("eval_loss") == whole.log("eval_loss")
    assert same(dict(whole.model.state_dict()), dict(parts.model.state_dict()))


def test_flags_of_data_workers_do_not_matter(fitted: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", lambda _: pytest.fail("a worker was started"))
    workers = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 4}
    assert len(fitted(num_train_epochs=1, **workers, **ON_DEVICE).seen) == STEPS_PER_EPOCH


def test_an_evaluation_decodes_nothing(
    fitted: Callable[..., Fitted], splits: datasets.DatasetDict, tmp_path: Path
) -> None:
    """The files of the images are deleted before the first step."""
    copies = {}
    for name, split in splits.items():
        paths = [shutil.copy(row["path"], tmp_path / f"{name}{i}.png") for i, row in enumerate(split["image"])]
        images = [{"bytes": None, "path": str(path)} for path in paths]
        features = split.features
        copies[name] = datasets.Dataset.from_dict(split.to_dict() | {"image": images}, features=features)
    deleted: list[Path] = []

    def delete() -> None:
        deleted.extend(tmp_path.glob("*.png"))
        for path in deleted:
            path.unlink(missing_ok=True)

    done = fitted(data=datasets.DatasetDict(copies), num_train_epochs=2, before_fit=delete, **ON_DEVICE)
    assert len(deleted) == sum(map(len, splits.values()))
    assert len(done.log("eval_accuracy")) == 2


def test_validation_images_can_be_on_the_device_without_the_training_images(
    fitted: Callable[..., Fitted], splits: datasets.DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations then start no workers, which could not reach the images; the scores are the same."""
    decoded = fitted("decoded", num_train_epochs=2)
    started: list[Any] = []
    start = multiprocessing.process.BaseProcess.start

    def note(process: Any) -> None:
        started.append(process)
        start(process)

    def load(*args: Any, **kwargs: Any) -> PreparedImages:
        images = load_images(*args, **kwargs)
        transform = TrainTransform(args[1], ImageArguments(), seed=1)
        stored = load_validation(splits["validation"], transform, device=torch.device("cpu"))
        monkeypatch.setattr("multiprocessing.process.BaseProcess.start", note)
        return dataclasses.replace(images, validation=stored)

    monkeypatch.setattr("tests.training.conftest.load_images", load)
    stored = fitted("stored", num_train_epochs=2, dataloader_num_workers=1, dataloader_prefetch_factor=3)
    assert len(started) == 1  # for the training images
    assert stored.log("eval_accuracy") == decoded.log("eval_accuracy")
    assert stored.log("eval_loss") == pytest.approx(decoded.log("eval_loss"), abs=1e-5)


@pytest.mark.parametrize(("flag", "cache"), [("auto", "disk"), ("disk", "disk"), ("none", "none")])
def test_the_cache_that_was_used_is_reported(fitted: Callable[..., Fitted], flag: str, cache: str) -> None:
    assert fitted(max_steps=1, image_cache=flag).decisions == {"image_cache": cache}
