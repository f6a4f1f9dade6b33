"""Averages of weights: a moving one along the run (EMA), and a greedy soup of its checkpoints."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


class MovingAverage(TrainerCallback):
    """An exponential moving average of what training changes: trainable weights, and running statistics.

    A short run would remember its start too long, so the decay of step t is min(decay, (1 + t) / (10 + t)), as in
    TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights as they are, on the device where they are."""
        self.decay = decay
        self.weights = changing_tensors(model)
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the step's weights in."""
        del args, control, kwargs
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        current = [weight.detach() for weight in self.weights.values()]
        get_ema_multi_avg_fn(decay)(list(self.average.values()), current, state.global_step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the averaged weights for the length of the block; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self.weights.items():
            weight.data, self.average[name] = self.average[name], weight.data


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trainable weights, and buffers of floats such as batch norm's running statistics, by name."""
    weights: dict[str, Tensor] = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return weights | {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
