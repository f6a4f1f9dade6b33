"""The Trainer callbacks: epoch, divergence, SIGTERM, time limit and the evaluation line."""

import logging
import os
import signal
import sys
import time
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError
from pipeline.performance.throughput import Clock
from pipeline.training.callbacks.loop import Progress, SetEpoch, StopAfterHours, StopOnSignal, StopWhenDiverged


@pytest.fixture(scope="module")
def args() -> FineTuningArguments:
    return FineTuningArguments(learning_rate=5e-4, per_device_train_batch_size=6, disable_tqdm=True, use_cpu=True)


def state_at(step: int, **changes: Any) -> TrainerState:
    return TrainerState(global_step=step, max_steps=18, epoch=step / 6, **changes)


@pytest.mark.parametrize(("step", "expected"), [(0, 0), (6, 1), (8, 1), (12, 2), (17, 2)])
def test_the_epoch_is_set_also_after_a_resume(args: FineTuningArguments, step: int, expected: int) -> None:
    epoch = torch.full((), 99)
    SetEpoch(epoch).on_epoch_begin(args, state_at(step), TrainerControl())
    assert epoch.item() == expected


@pytest.mark.parametrize("steps_per_epoch", [3, 7, 11, 49, 383])
def test_fractional_epochs_add_up_to_integers(args: FineTuningArguments, steps_per_epoch: int) -> None:
    epoch = torch.zeros(())
    for number in range(200):  # The Trainer counts epochs in floats: 2.9999 would set the previous epoch.
        state = TrainerState(epoch=number + steps_per_epoch / steps_per_epoch)
        SetEpoch(epoch).on_epoch_begin(args, state, TrainerControl())
        assert epoch.item() == number + 1


@pytest.mark.parametrize("name", ["loss", "grad_norm", "eval_loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_stops_the_run(args: FineTuningArguments, name: str, value: float) -> None:
    message = (
        rf"^{name} is {value} at step 8 \(training diverged at learning rate .*: lower --learning_rate \(now 0\.0005\)"
    )
    with pytest.raises(PipelineError, match=message):
        StopWhenDiverged().on_log(args, state_at(8), TrainerControl(), logs={"learning_rate": 1e-3, name: value})


def test_finite_values_do_not_stop_the_run(args: FineTuningArguments) -> None:
    control = TrainerControl()
    for logs in (None, {}, {"loss": 0.0, "grad_norm": 1e30}, {"eval_loss": 3.0, "eval_runtime": float("nan")}):
        StopWhenDiverged().on_log(args, state_at(8), control, logs=logs)
    assert not control.should_training_stop


def test_the_previous_signal_handler_is_restored_also_after_an_exception() -> None:
    received: list[int] = []
    original = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        stop = StopOnSignal()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
        assert received == []
        assert stop.received == signal.SIGTERM
        with pytest.raises(RuntimeError, match="a bug"), stop.listening():
            raise RuntimeError("a bug")
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, original)


@pytest.fixture
def signaled() -> StopOnSignal:
    stop = StopOnSignal()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
    return stop


def test_without_a_signal_the_run_continues(args: FineTuningArguments) -> None:
    control, stop = TrainerControl(), StopOnSignal()
    with stop.listening():
        stop.on_step_end(args, state_at(8), control)
    stop.on_train_end(args, state_at(18), control)
    assert control == TrainerControl()
    assert not stop.stopped


def test_a_signal_saves_and_stops_without_an_evaluation(signaled: StopOnSignal) -> None:
    args, control = FineTuningArguments(use_cpu=True), TrainerControl()
    signaled.on_step_end(args, state_at(8), control)
    assert control == TrainerControl(should_save=True, should_training_stop=True)
    control.should_evaluate = True  # The Trainer's own callback sets it at the end of an epoch.
    signaled.on_epoch_end(args, state_at(8), control)
    assert control == TrainerControl(should_training_stop=True)
    signaled.on_train_end(args, state_at(8), control)
    assert signaled.stopped


def test_a_signal_at_the_end_of_an_epoch_keeps_its_evaluation(
    args: FineTuningArguments, signaled: StopOnSignal
) -> None:
    control = TrainerControl(should_evaluate=True, should_save=True)
    signaled.on_epoch_end(args, state_at(12), control)
    assert control.should_evaluate
    assert control.should_save


def test_a_signal_in_the_last_step_does_not_stop_the_run(args: FineTuningArguments, signaled: StopOnSignal) -> None:
    control = TrainerControl(should_evaluate=True)
    signaled.on_step_end(args, state_at(18), control)
    signaled.on_epoch_end(args, state_at(18), control)
    signaled.on_train_end(args, state_at(18), control)
    assert control == TrainerControl(should_evaluate=True)
    assert not signaled.stopped


def test_the_time_limit_evaluates_saves_and_stops_once(
    args: FineTuningArguments, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    clock, control = Clock(), TrainerControl()
    stop = StopAfterHours(0.5, clock)
    stop.on_step_end(args, state_at(7), control)
    assert control == TrainerControl()
    clock.started -= 1801
    stop.on_step_end(args, state_at(8), control)
    assert control == TrainerControl(should_evaluate=True, should_save=True, should_training_stop=True)
    assert caplog.messages == ["reached --max_hours 0.5 at step 8; stopping"]
    stop.on_epoch_end(args, state_at(8), control)
    assert control == TrainerControl(should_training_stop=True)


def log_evaluation(
    caplog: pytest.LogCaptureFixture, args: FineTuningArguments, *, best: float | None, **metrics: float
) -> list[str]:
    """Return the lines that are logged for one evaluation."""
    caplog.clear()
    caplog.set_level(logging.INFO, logger="pipeline")
    progress, control = Progress(Clock()), TrainerControl()
    progress.on_train_begin(args, state_at(6), control)
    progress.on_log(args, state_at(7), control, logs={"loss": 1.25})
    progress.on_step_end(args, state_at(7), control)
    progress.on_log(
        args, state_at(8, best_metric=best), control, logs={"eval_loss": 0.5, "eval_accuracy": 0.25} | metrics
    )
    progress.on_train_end(args, state_at(8), control)
    return [record.getMessage() for record in caplog.records]


def test_each_evaluation_is_logged_in_one_line(args: FineTuningArguments, caplog: pytest.LogCaptureFixture) -> None:
    (line,) = log_evaluation(caplog, args, best=None)
    assert line == (
        "epoch   1.33  step 8/18  loss 1.250  validation: loss 0.500, accuracy 25.00% *  (0 images/s, data wait 0.0%)"
    )


@pytest.mark.parametrize(("best", "star"), [(0.2, True), (0.25, False), (0.3, False)])
def test_a_star_marks_a_new_best(
    args: FineTuningArguments, caplog: pytest.LogCaptureFixture, best: float, star: bool
) -> None:
    (line,) = log_evaluation(caplog, args, best=best)
    assert ("% *" in line) == star
    by_loss = FineTuningArguments(metric_for_best_model="loss", disable_tqdm=True, use_cpu=True)
    (line,) = log_evaluation(caplog, by_loss, best=best, eval_loss=0.25)
    assert ("% *" in line) == (best > 0.25)


def test_a_closed_terminal_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        progress, control = Progress(Clock()), TrainerControl()
        args = FineTuningArguments(disable_tqdm=False, use_cpu=True)
        progress.on_train_begin(args, state_at(6), control)
        os.close(main)
        for step in range(7, 12):
            time.sleep(0.11)  # the bar is drawn ten times a second
            progress.on_step_end(args, state_at(step), control)
        progress.on_train_end(args, state_at(12), control)
        monkeypatch.undo()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, terminal)  # to flush what the terminal did not take
        os.close(null)


def test_an_evaluation_outside_of_training_logs_no_line(
    args: FineTuningArguments, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    Progress(Clock()).on_log(args, state_at(8), TrainerControl(), logs={"eval_loss": 0.5, "eval_accuracy": 0.25})
    assert caplog.records == []
