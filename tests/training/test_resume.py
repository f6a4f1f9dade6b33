"""A resumed run equals an uninterrupted one bit for bit: weights, optimizer, random states and log."""

import functools
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.runs import checkpoints as checkpoint_files
from pipeline.runs.checkpoints import MANIFEST
from pipeline.runs.files import read_json
from pipeline.runs.folder import TRAINER_STATE
from tests.models import families
from tests.runs.damage import DAMAGE
from tests.training.fitting import Fitted, checkpoints, same

EVERY: dict[str, Any] = {
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "save_total_limit": None,
}
TOGETHER: dict[str, Any] = {
    "strategy": "lora",
    "ema_decay": 0.9,
    "mixup": 0.8,
    "cutmix": 1.0,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 3,
    "early_stopping_patience": 9,
}
AT_THE_END_OF_AN_EPOCH, WITHIN_AN_EPOCH = 6, 8


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3},
        {"balanced_sampling": True, "patch_drop_rate": 0.5},
        TOGETHER,
    ],
    ids=["plain", "accumulation", "balanced", "together"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    fitted: Callable[..., Fitted], tmp_path: Path, workers: int, changes: dict[str, Any]
) -> None:
    assert_resumes(fitted, tmp_path, changes | {"dataloader_num_workers": workers})


def test_a_resumed_dinov3_equals_an_uninterrupted_one(fitted: Callable[..., Fitted], tmp_path: Path) -> None:
    families.save("dinov3", tmp_path / "dinov3")
    assert_resumes(fitted, tmp_path, {"vit": tmp_path / "dinov3"})


def assert_resumes(fitted: Callable[..., Fitted], tmp_path: Path, changes: dict[str, Any]) -> None:
    """Compare an uninterrupted run with two that start from its checkpoints."""
    changes = EVERY | changes
    whole = fitted("whole", **changes)
    for first in (AT_THE_END_OF_AN_EPOCH, WITHIN_AN_EPOCH):
        name = f"from-{first}"
        for step in range(2, first + 2, 2):
            shutil.copytree(whole.folder / f"checkpoint-{step}", tmp_path / name / f"checkpoint-{step}")
        parts = fitted(name, **changes)
        assert len(parts.seen) == len(whole.seen) * (18 - first) // 18
        assert all(torch.equal(*pair) for pair in zip(whole.seen[-len(parts.seen) :], parts.seen, strict=True))
        assert_same_end(whole, parts, steps=range(first + 2, 20, 2))


def test_a_resumed_run_keeps_the_batch_size_that_was_found_when_memory_was_short(
    fitted: Callable[..., Fitted], tmp_path: Path
) -> None:
    def run_out_of_memory(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d) and module.training and not args[0].is_meta and len(args[0]) > 3:
            raise torch.OutOfMemoryError("out of memory")

    changes = EVERY | {"auto_find_batch_size": True}
    short_of_memory = torch.nn.modules.module.register_module_forward_pre_hook(run_out_of_memory)
    whole = fitted("whole", **changes)
    short_of_memory.remove()
    assert {len(images) for images in whole.seen[2:]} == {3}
    shutil.copytree(whole.folder / "checkpoint-8", tmp_path / "parts" / "checkpoint-8")
    shutil.copytree(whole.folder / "checkpoint-2", tmp_path / "parts" / "checkpoint-2")
    parts = fitted("parts", **changes)
    assert {len(images) for images in parts.seen} == {3}
    assert_same_end(whole, parts, steps=range(10, 20, 2))


def test_the_number_of_workers_does_not_change_the_weights(fitted: Callable[..., Fitted]) -> None:
    none, two = (fitted(f"{n}", **EVERY, dataloader_num_workers=n) for n in (0, 2))
    assert_same_end(none, two, steps=range(2, 20, 2))


def assert_same_end(whole: Fitted, parts: Fitted, *, steps: range) -> None:
    """Check that the last checkpoints have the same bytes, and that the same was logged."""
    for step in steps:
        one, other = (run.folder / f"checkpoint-{step}" for run in (whole, parts))
        names = {path.name for path in one.iterdir() if path.suffix in (".safetensors", ".pt", ".pth")}
        assert names >= {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
        for name in names:
            assert (one / name).read_bytes() == (other / name).read_bytes(), (step, name)
    for key in ("loss", "grad_norm", "eval_loss", "eval_accuracy"):
        assert parts.log(key) == whole.log(key), key
    assert parts.state["best_global_step"] == whole.state["best_global_step"]
    assert same(dict(whole.model.state_dict()), dict(parts.model.state_dict()))


@pytest.mark.parametrize("step", [6, 12, 18])
def test_a_run_that_stopped_early_and_died_before_it_said_so_trains_no_further_step(
    fitted: Callable[..., Fitted], misleading: datasets.DatasetDict, tmp_path: Path, step: int
) -> None:
    """The second evaluation without an improvement is at step 18."""
    changes = {"data": misleading, "metric_for_best_model": "loss", "early_stopping_patience": 2}
    changes |= {"num_train_epochs": 6, "save_total_limit": None}
    whole = fitted("whole", **changes)
    assert checkpoints(whole.folder) == [6, 12, 18]
    for each in range(6, step + 1, 6):
        shutil.copytree(whole.folder / f"checkpoint-{each}", tmp_path / "parts" / f"checkpoint-{each}")
    parts = fitted("parts", **changes)
    assert len(parts.seen) == 18 - step
    assert parts.state["global_step"] == 18
    assert parts.state["best_global_step"] == whole.state["best_global_step"] == 6
    assert same(dict(parts.model.state_dict()), dict(whole.model.state_dict()))


def test_a_run_that_ran_out_of_time_and_died_before_it_said_so_trains_no_further_step(
    fitted: Callable[..., Fitted],
) -> None:
    first = fitted(max_hours=1e-9)
    assert first.state["global_step"] == 1
    (first.folder / TRAINER_STATE).unlink()
    again = fitted(max_hours=1e-9)
    assert again.seen == []
    (first.folder / TRAINER_STATE).unlink()
    assert fitted(max_hours=1.0).state["global_step"] == 18
    assert read_json(first.folder / TRAINER_STATE)["global_step"] == 18


@pytest.fixture
def killed(fitted: Callable[..., Fitted], misleading: datasets.DatasetDict, tmp_path: Path) -> tuple[Fitted, Any]:
    """A run, and a function that resumes it as if it was killed at step 12. The best checkpoint is that of step 6."""
    changes = {"data": misleading, "metric_for_best_model": "loss"}
    whole = fitted("whole", **changes, save_total_limit=None)
    for step in (6, 12):
        shutil.copytree(whole.folder / f"checkpoint-{step}", tmp_path / "parts" / f"checkpoint-{step}")
    return whole, lambda: fitted("parts", **changes)


@pytest.mark.parametrize(
    ("step", "name", "damage", "steps_again", "reasons"),
    [
        (12, "optimizer.pt", "flipped in the middle", 12, ["checkpoint-12 is not used and is set aside: optimizer.pt"]),
        (12, MANIFEST, "absent", 12, [f"checkpoint-12 is not used and is set aside: {MANIFEST} is missing"]),
        (12, "rng_state.pth", "absent", 12, ["checkpoint-12 is not used and is set aside: rng_state.pth is missing"]),
        (
            6,
            "model.safetensors",
            "middle zeroed",
            18,
            [
                "checkpoint-12 is not used and is set aside: checkpoint-6, the best one before, cannot be used (model",
                "checkpoint-6 is not used and is set aside: model.safetensors is damaged (its content has changed)",
            ],
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_run_ends_the_same(
    killed: tuple[Fitted, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    step: int,
    name: str,
    damage: str,
    steps_again: int,
    reasons: list[str],
) -> None:
    whole, resume = killed
    DAMAGE[damage](tmp_path / "parts" / f"checkpoint-{step}" / name)
    parts = resume()
    warnings = [message for message in caplog.messages if "set aside" in message]
    assert len(warnings) == len(reasons)
    assert all(message.startswith(reason) for message, reason in zip(warnings, reasons, strict=True))
    assert len(parts.seen) == steps_again
    assert parts.log("eval_loss") == whole.log("eval_loss")
    assert same(dict(whole.model.state_dict()), dict(parts.model.state_dict()))
    assert {path.name for path in parts.folder.iterdir()} == {TRAINER_STATE, "checkpoint-6"}


@pytest.mark.parametrize("damage", ["absent", "zeroed", "half"])
def test_a_damaged_final_state_is_written_again(killed: tuple[Fitted, Any], damage: str) -> None:
    whole, resume = killed
    first = resume()
    DAMAGE[damage](first.folder / TRAINER_STATE)
    again = resume()
    assert again.state["log_history"][-2]["eval_loss"] == whole.log("eval_loss")[-1]
    assert same(dict(whole.model.state_dict()), dict(again.model.state_dict()))


def test_a_best_checkpoint_that_was_damaged_after_the_training_is_trained_again(
    killed: tuple[Fitted, Any], caplog: pytest.LogCaptureFixture
) -> None:
    whole, resume = killed
    first = resume()
    DAMAGE["flipped in the middle"](first.folder / "checkpoint-6" / "model.safetensors")
    again = resume()
    assert "checkpoint-6 is not used and is set aside: model.safetensors is damaged" in caplog.text
    assert len(again.seen) == 18
    assert same(dict(whole.model.state_dict()), dict(again.model.state_dict()))


def test_two_checkpoints_and_the_best_one_are_kept_while_training(
    fitted: Callable[..., Fitted], misleading: datasets.DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[int]] = []
    saved = checkpoint_files.seal

    def look(checkpoint: Path) -> None:
        saved(checkpoint)
        kept.append(checkpoint_files.saved_steps(checkpoint.parent))

    monkeypatch.setattr(checkpoint_files, "seal", look)
    done = fitted(data=misleading, metric_for_best_model="loss", num_train_epochs=5)
    assert kept == [[6], [12, 6], [18, 12, 6], [24, 18, 12, 6], [30, 24, 18, 6]]
    assert checkpoints(done.folder) == [6]


def test_the_best_model_is_saved_also_between_two_saves(
    fitted: Callable[..., Fitted], misleading: datasets.DatasetDict
) -> None:
    done = fitted(data=misleading, metric_for_best_model="loss", **EVERY | {"save_steps": 4})
    assert done.state["best_global_step"] == 2
    assert checkpoints(done.folder) == [2, 4, 8, 12, 16, 18]


def test_a_full_disk_is_one_line_and_the_run_resumes_after_room_is_made(
    fitted: Callable[..., Fitted], tmp_path: Path
) -> None:
    """The operating system fails to write more than a limit for each file, as it does on a full disk."""
    whole = fitted("whole", save_total_limit=None)
    sizes = {path.name: path.stat().st_size for path in (whole.folder / "checkpoint-6").iterdir()}
    assert sizes["optimizer.pt"] * 3 // 4 > sizes["model.safetensors"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for size in (sizes["model.safetensors"] // 2, sizes["optimizer.pt"] * 3 // 4):
            fill = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(
                PipelineError, match=r"^cannot save .*checkpoint-6, which needs \d+ bytes \(.*free disk"
            ):
                fitted("parts", save_total_limit=None, before_fit=fill)
            assert not (tmp_path / "parts" / "checkpoint-6").exists()
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    parts = fitted("parts", save_total_limit=None)
    assert_same_end(whole, parts, steps=range(6, 24, 6))
