"""What happens beside the training step: the epoch told to the augmentation, lines and bar of progress, safe stops."""

import logging
import math
import operator
import signal
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline import distributed
from pipeline.performance.throughput import Clock

logger = logging.getLogger(__name__)


class SetEpoch(TrainerCallback):
    """Write the epoch where the augmentation reads it, in shared memory.

    The Trainer's `set_epoch` does not reach a data set in a resumed epoch, nor persistent workers.
    """

    def __init__(self, epoch: torch.Tensor) -> None:
        self.epoch = epoch

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the epoch from the state: after a resume it is that of the checkpoint."""
        del args, control, kwargs
        self.epoch.fill_(int(state.epoch or 0))


class StopWhenDiverged(TrainerCallback):
    """Stop on a loss or gradient norm that is not a number, before a checkpoint of it replaces a good one."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check what was just measured: evaluation logs before it saves.

        Raises:
            AgreedError: Naming the figure and the step; what is logged is the same in all processes.
        """
        del control, kwargs
        for name in ("loss", "grad_norm", "eval_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise distributed.DistributedError(
                    f"{name} is {value} at step {state.global_step}: training diverged. Lower --learning_rate "
                    f"({args.learning_rate:g}), raise --warmup_steps, or use --precision fp32 in another --output_dir"
                )


class StopOnSignal(TrainerCallback):
    """On SIGTERM in its `with` block: finish the step, save, stop; all processes at the same step.

    `stopped` tells the caller that the run is not at its end.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, self._note)

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop between two steps, where the state is whole."""
        del kwargs
        if distributed.any_rank(self._asked) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            if args.save_total_limit == 1:  # with which the Trainer ends by deleting all checkpoints but the best
                args.save_total_limit = 2

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Where it stops within an epoch, neither score nor save again: the uninterrupted run would not."""
        del args, kwargs
        if self.stopped and state.epoch != int(state.epoch or 0):
            control.should_evaluate = control.should_save = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._asked = True


class StopAfterHours(TrainerCallback):
    """Score, save and stop after so many hours, those before a resume included."""

    def __init__(self, hours: float, clock: Clock) -> None:
        """Take the limit, and the clock of the training."""
        self.hours, self.clock = hours, clock
        self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop all processes at the same step."""
        del args, kwargs
        if distributed.any_rank(self.clock.elapsed() > 3600 * self.hours) and state.global_step < state.max_steps:
            logger.info("stopped at step %d: --max_hours %g are over", state.global_step, self.hours)
            self.stopped = control.should_evaluate = control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Neither score nor save what was scored and saved when it stopped."""
        del args, state, kwargs
        if self.stopped:
            control.should_evaluate = control.should_save = False


class Progress(TrainerCallback):
    """A bar on a terminal, and a line for every evaluation, with what the Trainer's own dictionaries would say."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.bar: tqdm[Any] | None = None
        self.loss = math.nan

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the step that a resumed run has reached, and set the clock to the time that it took."""
        del control, kwargs
        self.clock.before = max((row.get("elapsed", 0.0) for row in state.log_history), default=0.0)
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="train",
            unit="step",
            disable=args.disable_tqdm or not distributed.is_main_process(),
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar, and stop the clock."""
        del args, state, control, kwargs
        assert self.bar is not None
        self.clock.end_step()
        self.bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the training loss; say a line when a score on validation came in."""
        del control, kwargs
        logs = logs or {}
        self.loss = logs.get("loss", self.loss)
        if "eval_accuracy" not in logs or self.bar is None:
            return
        chosen_by = logs[f"eval_{args.metric_for_best_model}"]
        better = operator.gt if args.greater_is_better else operator.lt
        best = state.best_metric is None or better(chosen_by, state.best_metric)
        self.bar.clear()
        logger.info(
            "epoch %6.2f  step %d/%d  loss %.3f  validation: loss %.3f, accuracy %.2f %%%s  "
            "(%.0f images/s, %.1f %% of the time waiting for them)",
            state.epoch,
            state.global_step,
            state.max_steps,
            self.loss,
            logs["eval_loss"],
            100 * logs["eval_accuracy"],
            " *" if best else "",
            self.clock.whole.rate,
            100 * self.clock.whole.wait,
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        del args, state, control, kwargs
        assert self.bar is not None
        self.bar.close()
        self.bar = None
