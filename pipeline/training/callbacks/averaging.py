"""Exponential moving average (EMA) of the weights during training."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class MovingAverage(TrainerCallback):
    """Exponential moving average of the tensors that training changes: trainable weights and running statistics.

    The decay at step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage. With a constant
    decay, the average of a short run would stay close to the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Initialize the average with the current weights, on their device.

        Args:
            model: Model to average. Its trainable parameters must not change later.
            decay: Largest decay per step, for example 0.999.
        """
        self.decay = decay
        self.weights = changing_tensors(model)
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the average with the weights of this step."""
        del args, control, kwargs
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        current = [weight.detach() for weight in self.weights.values()]
        get_ema_multi_avg_fn(decay)(list(self.average.values()), current, state.global_step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averaged weights into the model inside the block. Tensors are swapped and not copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self.weights.items():
            weight.data, self.average[name] = self.average[name], weight.data


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return by name the trainable weights and the floating-point buffers, such as batch norm's running statistics."""
    weights: dict[str, Tensor] = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return weights | {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
