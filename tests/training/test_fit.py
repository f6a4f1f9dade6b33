"""`fit`: exactly the best weights, resumes that leave no trace, and runs that diverge."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import EvalPrediction

from pipeline.arguments.images import ImageArguments
from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError, Terminated
from pipeline.images.processor import Normalize
from pipeline.images.transforms import TrainTransform
from pipeline.models.build import build_classifier
from pipeline.runs.checkpoints import newest_complete_checkpoint
from pipeline.runs.folder import TRAINER_STATE
from pipeline.training import build
from pipeline.watchdog import must_progress
from tests.training.fitting import COLORS, STEPS_PER_EPOCH, Fitted, checkpoints, same, stored


def test_the_model_ends_with_every_weight_of_its_best_checkpoint(
    fitted: Callable[..., Fitted], misleading: datasets.DatasetDict
) -> None:
    done = fitted(data=misleading, metric_for_best_model="loss", save_total_limit=None)
    assert checkpoints(done.folder) == [6, 12, 18]
    assert done.state["best_global_step"] == 6
    assert done.log("eval_loss") == sorted(done.log("eval_loss"))
    assert same(dict(done.model.state_dict()), stored(done.folder / "checkpoint-6"))
    assert not any(
        torch.equal(tensor, stored(done.folder / "checkpoint-18")[name])
        for name, tensor in done.model.state_dict().items()
    )


def test_every_weight_changes_and_accuracy_rises(fitted: Callable[..., Fitted], dropping_vit: Path) -> None:
    before = build_classifier(ModelArguments(str(dropping_vit)), class_names=COLORS, seed=42).model.state_dict()
    done = fitted()
    assert max(done.log("eval_accuracy")) > 0.8
    moved = {name for name, weight in done.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name, _ in done.model.named_parameters()}
    assert np.mean(done.log("loss")) == pytest.approx(done.metrics["train_loss"], rel=1e-4)


def test_only_checkpoints_and_the_state_are_written(
    fitted: Callable[..., Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = fitted(num_train_epochs=1)
    assert {path.name for path in done.folder.iterdir()} == {"checkpoint-6", TRAINER_STATE}
    assert list(Path.cwd().iterdir()) == []
    assert str(tmp_path) not in (done.folder / TRAINER_STATE).read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_used_once_per_epoch_and_depends_on_seed_epoch_and_index(
    fitted: Callable[..., Fitted], splits: datasets.DatasetDict, dropping_vit: Path, workers: int
) -> None:
    done = fitted(num_train_epochs=2, dataloader_num_workers=workers, seed=5)
    processor = build_classifier(ModelArguments(str(dropping_vit)), class_names=COLORS, seed=0).processor
    transform, rows = TrainTransform(processor, ImageArguments(), seed=5), splits["train"][:]
    for epoch in (0, 1):
        transform.epoch.fill_(epoch)
        expected = Normalize(processor)(torch.stack(transform(rows)["pixel_values"])).flatten(1)
        seen = torch.cat(done.seen[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH]).flatten(1)
        assert torch.equal(seen.unique(dim=0), expected.unique(dim=0))
        assert len(seen) == len(expected) == 36


def test_a_run_resumes_in_a_moved_folder(
    fitted: Callable[..., Fitted], misleading: datasets.DatasetDict, tmp_path: Path
) -> None:
    changes = {"data": misleading, "metric_for_best_model": "loss"}
    whole = fitted("whole", **changes, save_total_limit=None)
    (tmp_path / "moved").mkdir()
    for step in (6, 12):
        (whole.folder / f"checkpoint-{step}").rename(tmp_path / "moved" / f"checkpoint-{step}")
    moved = fitted("moved", **changes)
    assert moved.state["best_global_step"] == 6
    assert same(dict(moved.model.state_dict()), dict(whole.model.state_dict()))


def untouched(run: Callable[[], Fitted], folder: Path) -> Fitted:
    """Call `fit` again; no checkpoint may change, and the network must receive no image."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoint-*/*")}
    again = run()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoint-*/*")} == before
    assert again.seen == []
    return again


@pytest.mark.parametrize("limit", [None, 1])
def test_a_complete_run_trains_no_further_step(
    fitted: Callable[..., Fitted], misleading: datasets.DatasetDict, limit: int | None
) -> None:
    """This also holds if only the best checkpoint was kept: training was complete, and only scoring remains."""
    changes = {"data": misleading, "metric_for_best_model": "loss", "max_steps": 15, "save_total_limit": limit}
    first = fitted(**changes)
    assert first.state["global_step"] == 15
    again = untouched(lambda: fitted(**changes), first.folder)
    assert same(dict(again.model.state_dict()), dict(first.model.state_dict()))
    assert again.state == first.state
    restored, collected = again.metrics.pop("margins"), first.metrics["margins"]
    assert np.array_equal(restored.trust, collected.trust)
    assert again.metrics == {k: v for k, v in first.metrics.items() if k not in ("epoch", "speed", "margins")}


def test_a_run_that_died_after_its_last_step_trains_no_further_step(fitted: Callable[..., Fitted]) -> None:
    first = fitted(max_steps=4)
    (first.folder / TRAINER_STATE).unlink()
    again = untouched(lambda: fitted(max_steps=4), first.folder)
    assert same(dict(again.model.state_dict()), dict(first.model.state_dict()))
    assert again.state["log_history"] == first.state["log_history"][:-1]  # the last line has the runtime


def test_a_run_that_stopped_early_trains_no_further_step(
    fitted: Callable[..., Fitted], misleading: datasets.DatasetDict
) -> None:
    changes = {"data": misleading, "metric_for_best_model": "loss", "early_stopping_patience": 1}
    first = fitted(**changes)
    assert first.state["global_step"] == 12
    again = untouched(lambda: fitted(**changes), first.folder)
    assert same(dict(again.model.state_dict()), dict(first.model.state_dict()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_ends_the_same(
    fitted: Callable[..., Fitted],
    misleading: datasets.DatasetDict,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """The number of checkpoints is limited by default, and the best one is not the newest."""
    changes = {"data": misleading, "metric_for_best_model": "loss"}
    whole = fitted("whole", **changes)
    handler = signal.getsignal(signal.SIGTERM)
    measured = build._compute_metrics
    asked = 0

    def kill_in_the_second_evaluation(prediction: EvalPrediction) -> dict[str, float]:
        nonlocal asked
        asked += 1
        if asked == 2:
            os.kill(os.getpid(), number)
        return measured(prediction)

    monkeypatch.setattr(build, "_compute_metrics", kill_in_the_second_evaluation)
    with pytest.raises(Terminated, match=r"saved step 13 in .*parts: repeat the command to resume") as stopped:
        fitted("parts", **changes)
    assert stopped.value.number == number
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == handler
    folder = whole.folder.with_name("parts")
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-13"
    assert not (folder / TRAINER_STATE).exists()
    parts = fitted("parts", **changes)
    assert len(parts.seen) == 18 - 13
    assert same(dict(parts.model.state_dict()), dict(whole.model.state_dict()))
    assert parts.log("eval_loss") == whole.log("eval_loss")


def test_a_signal_in_the_last_step_is_obeyed_after_the_state_is_written(
    fitted: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = build._compute_metrics
    kill = [True]

    def kill_in_the_evaluation(prediction: EvalPrediction) -> dict[str, float]:
        if kill:
            os.kill(os.getpid(), signal.SIGHUP)
            kill.clear()
        return measured(prediction)

    monkeypatch.setattr(build, "_compute_metrics", kill_in_the_evaluation)
    with pytest.raises(Terminated, match=r"training in .*run is complete: repeat the command to score it"):
        fitted(num_train_epochs=1)
    assert (tmp_path / "run" / TRAINER_STATE).exists()
    assert fitted(num_train_epochs=1).seen == []


def test_a_dead_data_worker_is_named(fitted: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch) -> None:
    measured = build._compute_metrics
    others = set(psutil.Process().children())  # a resource tracker, workers of other tests
    killed: list[int] = []

    def kill_a_worker(prediction: EvalPrediction) -> dict[str, float]:
        workers = sorted(set(psutil.Process().children()) - others, key=lambda child: child.pid)
        killed.append(workers[0].pid)
        workers[0].kill()
        time.sleep(5)  # which the handler of torch interrupts
        return measured(prediction)

    monkeypatch.setattr(build, "_compute_metrics", kill_a_worker)
    with (
        pytest.raises(
            PipelineError,
            match=r"^a data worker died \(.*\): lower --dataloader_num_workers, or give the process more mem",
        ) as error,
        must_progress(),
    ):
        fitted(dataloader_num_workers=2)
    assert str(killed[0]) in str(error.value)


def test_a_stopped_data_worker_ends_the_training_which_resumes(
    fitted: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = build._compute_metrics
    others = set(psutil.Process().children())
    stopped: list[psutil.Process] = []

    def stop_a_worker(prediction: EvalPrediction) -> dict[str, float]:
        if (tmp_path / "run" / "checkpoint-6").exists() and not stopped:
            stopped.append(min(set(psutil.Process().children()) - others, key=lambda child: child.pid))
            stopped[0].suspend()
        return measured(prediction)

    monkeypatch.setattr(build, "_compute_metrics", stop_a_worker)
    with pytest.raises(PipelineError) as error, must_progress(2.0):
        fitted(dataloader_num_workers=2)
    assert re.match(
        rf"no batch of images has arrived from the data workers .*{stopped[0].pid} \(stopped\).* for 2 s: check the d",
        str(error.value),
    )
    assert not set(psutil.Process().children()) - others
    assert same(dict(fitted(dataloader_num_workers=2).model.state_dict()), dict(fitted("whole").model.state_dict()))


def test_gradient_accumulation_equals_one_large_batch(fitted: Callable[..., Fitted], tiny_vit: Path) -> None:
    one = fitted("one", vit=tiny_vit, per_device_train_batch_size=8)
    two = fitted("two", vit=tiny_vit, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert one.state["global_step"] == two.state["global_step"] == 15  # the last batch of each epoch is half full
    assert two.log("loss") == pytest.approx(one.log("loss"), abs=1e-5)
    assert two.log("grad_norm") == pytest.approx(one.log("grad_norm"), rel=1e-3)
    weights = dict(one.model.state_dict())
    assert all(torch.allclose(t, weights[name], atol=1e-4) for name, t in two.model.state_dict().items())


def test_a_diverged_run_stops_and_keeps_its_last_good_checkpoint(fitted: Callable[..., Fitted], tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    each = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    with pytest.raises(PipelineError, match=r"nan at step 2 \(training diverged at .*: lower .*\(now 1e\+30\)"):
        fitted(learning_rate=1e30, warmup_steps=2, **each)  # the learning rate of the first step is 0
    assert checkpoints(tmp_path / "run") == [1]
    good = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in good.values())
    assert not (tmp_path / "run" / TRAINER_STATE).exists()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_metrics_are_computed_from_classes_and_losses_not_logits(
    fitted: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = build._compute_metrics
    got: list[Any] = []

    def look(prediction: EvalPrediction) -> dict[str, float]:
        got.append(prediction.predictions)
        return measured(prediction)

    monkeypatch.setattr(build, "_compute_metrics", look)
    fitted(num_train_epochs=1, per_device_eval_batch_size=5)
    ((numbers, losses),) = got
    assert isinstance(numbers, np.ndarray)
    assert numbers.shape == losses.shape == (18,)
    assert numbers.dtype.kind == "i"


def test_dropping_the_last_batch_drops_no_validation_image(fitted: Callable[..., Fitted]) -> None:
    whole = fitted("whole", max_steps=1, per_device_eval_batch_size=5)
    done = fitted(max_steps=1, per_device_eval_batch_size=5, dataloader_drop_last=True)
    assert done.log("eval_loss") == whole.log("eval_loss")


def test_the_progress_lines_agree_with_the_log_history(
    fitted: Callable[..., Fitted], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    done = fitted(num_train_epochs=2)
    lines = [r.getMessage() for r in caplog.records if r.name == "pipeline.training.callbacks.loop"]
    history = done.state["log_history"]
    scores = [row for row in history if "eval_loss" in row]
    assert len(lines) == len(scores) == 2
    best = -1.0
    for line, row in zip(lines, scores, strict=True):
        (loss,) = [entry["loss"] for entry in history if entry["step"] == row["step"] and "loss" in entry]
        start = f"epoch {row['epoch']:6.2f}  step {row['step']}/12  loss {loss:.3f}  "
        score = f"validation: loss {row['eval_loss']:.3f}, accuracy {100 * row['eval_accuracy']:.2f}%"
        star = " *" if row["eval_accuracy"] > best else ""
        best = max(best, row["eval_accuracy"])
        assert re.fullmatch(rf"{re.escape(start + score + star)}  \(\d+ images/s, data wait \d+\.\d%\)", line)


def test_the_trainer_state_is_plain_json(fitted: Callable[..., Fitted]) -> None:
    done = fitted(num_train_epochs=1)
    text = (done.folder / TRAINER_STATE).read_text()
    state = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert state["best_model_checkpoint"] == "checkpoint-6"
