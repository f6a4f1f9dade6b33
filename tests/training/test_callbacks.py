"""What happens beside the step: the epoch told, a divergence named, a signal heard, a line said."""

import logging
import os
import signal
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError
from pipeline.performance.throughput import Clock
from pipeline.training.callbacks import Progress, SetEpoch, StopOnSignal, StopWhenDiverged


@pytest.fixture(scope="module")
def args() -> FineTuningArguments:
    return FineTuningArguments(learning_rate=5e-4, per_device_train_batch_size=6, disable_tqdm=True, use_cpu=True)


def state_at(step: int, **changes: Any) -> TrainerState:
    return TrainerState(global_step=step, max_steps=18, epoch=step / 6, **changes)


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (6, 1), (8, 1), (12, 2), (17, 2)])
def test_the_epoch_is_told_also_after_a_resume(args: FineTuningArguments, step: int, epoch: int) -> None:
    told = torch.full((), 99)
    SetEpoch(told).on_epoch_begin(args, state_at(step), TrainerControl())
    assert told.item() == epoch


@pytest.mark.parametrize("steps_an_epoch", [3, 7, 11, 49, 383])
def test_the_sum_of_steps_makes_whole_epochs(args: FineTuningArguments, steps_an_epoch: int) -> None:
    told = torch.zeros(())
    for epoch in range(200):  # as the Trainer counts: floats, so that 2.9999 would tell the epoch before
        state = TrainerState(epoch=epoch + steps_an_epoch / steps_an_epoch)
        SetEpoch(told).on_epoch_begin(args, state, TrainerControl())
        assert told.item() == epoch + 1


@pytest.mark.parametrize("name", ["loss", "grad_norm", "eval_loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_no_number_stops_the_run(args: FineTuningArguments, name: str, value: float) -> None:
    with pytest.raises(PipelineError, match=rf"^{name} is {value} at step 8: .*Lower --learning_rate \(0\.0005\)"):
        StopWhenDiverged().on_log(args, state_at(8), TrainerControl(), logs={"learning_rate": 1e-3, name: value})


def test_figures_that_are_numbers_stop_nothing(args: FineTuningArguments) -> None:
    control = TrainerControl()
    for logs in (None, {}, {"loss": 0.0, "grad_norm": 1e30}, {"eval_loss": 3.0, "eval_runtime": float("nan")}):
        StopWhenDiverged().on_log(args, state_at(8), control, logs=logs)
    assert not control.should_training_stop


def test_the_handler_of_before_is_back_after_the_block_however_it_ends() -> None:
    got: list[int] = []
    original = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        stop = StopOnSignal()
        with stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert got == []
        with pytest.raises(RuntimeError, match="a bug"), stop:
            raise RuntimeError("a bug")
        os.kill(os.getpid(), signal.SIGTERM)
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, original)


@pytest.fixture
def stopped() -> StopOnSignal:
    stop = StopOnSignal()
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)
    return stop


def test_without_a_signal_nothing_is_saved_or_stopped(args: FineTuningArguments) -> None:
    control, stop = TrainerControl(), StopOnSignal()
    with stop:
        stop.on_step_end(args, state_at(8), control)
    stop.on_train_end(args, state_at(18), control)
    assert control == TrainerControl()
    assert not stop.stopped


def test_a_signal_saves_and_stops_and_scores_nothing(stopped: StopOnSignal) -> None:
    args, control = FineTuningArguments(use_cpu=True), TrainerControl()
    assert args.save_total_limit == 1
    stopped.on_step_end(args, state_at(8), control)
    assert control == TrainerControl(should_save=True, should_training_stop=True)
    assert args.save_total_limit == 2  # with 1, the Trainer would delete what was just saved
    control.should_evaluate = True  # as the Trainer's own callback says at the end of an epoch
    stopped.on_epoch_end(args, state_at(8), control)
    assert control == TrainerControl(should_training_stop=True)
    stopped.on_train_end(args, state_at(8), control)
    assert stopped.stopped


def test_a_signal_at_the_end_of_an_epoch_lets_it_be_scored(args: FineTuningArguments, stopped: StopOnSignal) -> None:
    control = TrainerControl(should_evaluate=True, should_save=True)
    stopped.on_epoch_end(args, state_at(12), control)
    assert control.should_evaluate
    assert control.should_save


def test_a_signal_in_the_last_step_lets_the_run_end(args: FineTuningArguments, stopped: StopOnSignal) -> None:
    control = TrainerControl(should_evaluate=True)
    stopped.on_step_end(args, state_at(18), control)
    stopped.on_epoch_end(args, state_at(18), control)
    stopped.on_train_end(args, state_at(18), control)
    assert control == TrainerControl(should_evaluate=True)
    assert not stopped.stopped


def said(
    caplog: pytest.LogCaptureFixture, args: FineTuningArguments, *, best: float | None, **scores: float
) -> list[str]:
    caplog.clear()
    caplog.set_level(logging.INFO, logger="pipeline")
    progress, control = Progress(Clock()), TrainerControl()
    progress.on_train_begin(args, state_at(6), control)
    progress.on_log(args, state_at(7), control, logs={"loss": 1.25})
    progress.on_step_end(args, state_at(7), control)
    progress.on_log(
        args, state_at(8, best_metric=best), control, logs={"eval_loss": 0.5, "eval_accuracy": 0.25} | scores
    )
    progress.on_train_end(args, state_at(8), control)
    return [record.getMessage() for record in caplog.records]


def test_progress_says_a_line_for_an_evaluation(args: FineTuningArguments, caplog: pytest.LogCaptureFixture) -> None:
    (line,) = said(caplog, args, best=None)
    start, _, rate = line.rpartition("  (")
    assert start == "epoch   1.33  step 8/18  loss 1.250  validation: loss 0.500, accuracy 25.00 % *"
    assert rate.endswith(" % of the time waiting for them)")


@pytest.mark.parametrize(("best", "star"), [(0.2, True), (0.25, False), (0.3, False)])
def test_a_star_marks_a_new_best(
    args: FineTuningArguments, caplog: pytest.LogCaptureFixture, best: float, star: bool
) -> None:
    (line,) = said(caplog, args, best=best)
    assert ("% *" in line) == star
    by_loss = FineTuningArguments(metric_for_best_model="loss", disable_tqdm=True, use_cpu=True)
    (line,) = said(caplog, by_loss, best=best, eval_loss=0.25)
    assert ("% *" in line) == (best > 0.25)


def test_no_line_outside_of_training(args: FineTuningArguments, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    Progress(Clock()).on_log(args, state_at(8), TrainerControl(), logs={"eval_loss": 0.5, "eval_accuracy": 0.25})
    assert caplog.records == []
