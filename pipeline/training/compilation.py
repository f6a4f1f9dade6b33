"""`--compile auto`: torch.compile where the training is long enough to repay it, and kept only where it is faster."""

import logging
import statistics
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline import processes
from pipeline.training.compute import synchronize

logger = logging.getLogger(__name__)

# A ViT-B/16 took 40 s to compile on two cores: of so long a training, little is lost where it brings nothing.
REPAYS = 900.0  # seconds of steps to come
_WARM_UP, _TIMED = 3, 5  # steps that are left out, and steps whose median counts, of each way


class CompileWherePays(TrainerCallback):
    """Times some steps as they are, then some compiled ones, and goes on in the faster way; says each choice in a line.

    Evaluation, and the smaller batch at the end of an epoch, are never compiled: each would be a compilation of its
    own. Where the compiler fails, torch falls back to the steps as they are, and so does this.

    The choice depends on the clock, and compiled kernels round otherwise: a run that is repeated or resumed gives the
    same figures up to rounding, not to the bit.
    """

    def __init__(self) -> None:
        self.compiled = self.decided = False
        self._network: Any = None  # the compiled one, on the weights of the other
        self._plain: float | None = None  # seconds of a step as it is
        self._times: list[float] = []
        self._started = 0.0
        self._batch: int | None = None

    def choose(self, network: Any, batch: int) -> Any:
        """Return the network for a training step on so many images, compiled where that was chosen."""
        self._batch = self._batch or batch
        if not self.compiled or batch != self._batch:
            return network
        if self._network is None:
            torch._dynamo.config.suppress_errors = True
            self._network = torch.compile(network, dynamic=False)
        return self._network

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; the images are there."""
        del state, control, kwargs
        if not self.decided:
            synchronize(args.device)
            self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the clock, and choose as soon as enough is known: rank 0 for all."""
        del control, kwargs
        if self.decided:
            return
        synchronize(args.device)
        self._times.append(time.perf_counter() - self._started)
        if len(self._times) < _WARM_UP + _TIMED:
            return
        step = processes.exchange(statistics.median(self._times[_WARM_UP:]))[0]
        overhead = sum(self._times) - len(self._times) * step
        self._times = []
        if self._plain is None:
            self._consider(step, state.max_steps - state.global_step)
        else:
            self._judge(step, self._plain, overhead)

    def _consider(self, step: float, steps: int) -> None:
        self._plain, self.compiled = step, step * steps >= REPAYS
        self.decided = not self.compiled
        if self.decided:
            logger.info("not compiled: %.0f s of steps to come do not repay it, %.0f would", step * steps, REPAYS)

    def _judge(self, step: float, plain: float, overhead: float) -> None:
        self.compiled, self.decided = step < plain, True
        verdict = "goes on compiled" if self.compiled else "goes on as it was"
        logger.info("compiled in %.0f s: a step takes %.2f of its time before, and %s", overhead, step / plain, verdict)
