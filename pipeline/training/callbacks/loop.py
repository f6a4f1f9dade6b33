"""Trainer callbacks: the epoch for the augmentation, safe stops, the progress bar and a line for each evaluation."""

import contextlib
import logging
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline import distributed, signals
from pipeline.performance.throughput import Clock
from pipeline.training.callbacks.divergence import Diverged

logger = logging.getLogger(__name__)


class SetEpoch(TrainerCallback):
    """Writes the epoch into the shared tensor from which the augmentation reads it.

    The Trainer's own `set_epoch` reaches neither the dataset of a resumed epoch nor persistent workers.
    """

    def __init__(self, epoch: torch.Tensor) -> None:
        """Store the tensor.

        Args:
            epoch: Tensor with one element, in shared memory if there are workers.
        """
        self.epoch = epoch

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Copy the epoch from the state: after a resume it is the epoch of the checkpoint."""
        del args, control, kwargs
        self.epoch.fill_(int(state.epoch or 0))


class StopWhenDiverged(TrainerCallback):
    """Raises an error if the loss or the gradient norm is NaN or infinite, before a checkpoint with it is saved."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the logged values. The Trainer logs the metrics of an evaluation before it saves a checkpoint.

        Raises:
            Diverged: With the name of the value and the step. The logged values are the same on all ranks.
        """
        del control, kwargs
        for name in ("loss", "grad_norm", "eval_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                peak = args.learning_rate
                rates = [row["learning_rate"] for row in [*state.log_history, logs or {}] if "learning_rate" in row]
                raise Diverged(name, value, step=state.global_step, rate=[peak, *rates][-1], peak_rate=peak)


class StopOnSignal(TrainerCallback):
    """After a signal inside its `listening` block, finishes the step, saves a checkpoint and stops.

    All ranks stop at the same step.

    Attributes:
        stopped: Whether a signal stopped the run before its last step.
        received: Number of the signal that this rank received, or 0.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.received = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note the signal that arrives in the block."""
        with signals.handled(self._receive):
            yield

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop between two steps, where the state is complete."""
        del args, kwargs
        if distributed.any_rank(bool(self.received)) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prevent an evaluation and a second save after a stop within an epoch: an uninterrupted run has neither."""
        del args, kwargs
        if self.stopped and state.epoch != int(state.epoch or 0):
            control.should_evaluate = control.should_save = False

    def _receive(self, number: int) -> None:
        self.received = number


class StopAfterHours(TrainerCallback):
    """Evaluates, saves and stops after a number of hours. The hours before a resume count too."""

    def __init__(self, hours: float, clock: Clock) -> None:
        """Store the limit.

        Args:
            hours: Training time after which the run stops.
            clock: Clock of the training.
        """
        self.hours, self.clock = hours, clock
        self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop all ranks at the same step."""
        del args, kwargs
        if distributed.any_rank(self.clock.elapsed() > 3600 * self.hours) and state.global_step < state.max_steps:
            logger.info("reached --max_hours %g at step %d; stopping", self.hours, state.global_step)
            self.stopped = control.should_evaluate = control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prevent a second evaluation and a second save at the step at which the run stopped."""
        del args, state, kwargs
        if self.stopped:
            control.should_evaluate = control.should_save = False


class Progress(TrainerCallback):
    """Shows a progress bar on a terminal and logs one line for each evaluation."""

    def __init__(self, clock: Clock) -> None:
        """Store the clock.

        Args:
            clock: Clock of the training. This callback ends its steps.
        """
        self.clock = clock
        self.bar: tqdm[Any] | None = None
        self.loss = math.nan

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar. In a resumed run, start it at the step of the checkpoint and the clock at its elapsed time."""
        del control, kwargs
        before = self.clock.seconds_before_resume  # of a rewind, or 0
        self.clock.seconds_before_resume = max([before, *(row.get("elapsed", 0.0) for row in state.log_history)])
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="train",
            unit="step",
            disable=args.disable_tqdm or not distributed.is_main_process(),
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar and end the step of the clock."""
        del args, state, control, kwargs
        assert self.bar is not None
        self.clock.step_ended()
        try:
            self.bar.update(1)
        except OSError:  # the terminal was closed, but the checkpoint must still be saved
            self.bar.disable = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the training loss. Log one line if the values come from an evaluation; `*` marks a new best."""
        del control, kwargs
        logs = logs or {}
        self.loss = logs.get("loss", self.loss)
        if "eval_accuracy" not in logs or self.bar is None:
            return
        metric = logs[f"eval_{args.metric_for_best_model}"]
        is_better = operator.gt if args.greater_is_better else operator.lt
        new_best = state.best_metric is None or is_better(metric, state.best_metric)
        self.bar.clear()
        logger.info(
            "epoch %6.2f  step %d/%d  loss %.3f  validation: loss %.3f, accuracy %.2f%%%s  "
            "(%.0f images/s, data wait %.1f%%)",
            state.epoch,
            state.global_step,
            state.max_steps,
            self.loss,
            logs["eval_loss"],
            100 * logs["eval_accuracy"],
            " *" if new_best else "",
            self.clock.total.images_per_second,
            100 * self.clock.total.data_wait,
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        del args, state, control, kwargs
        assert self.bar is not None
        self.bar.close()
        self.bar = None
