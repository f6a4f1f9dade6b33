"""A stock Trainer of three weights with the settings of a run: what it rejects is an error before images are loaded."""

import copy
import dataclasses
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, Trainer

from pipeline.arguments.flags import default_of, plain
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError, raise_problems

_REJECTIONS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError,
               ValueError)  # fmt: skip
_OF_MODULES = ("galore", "apollo", "lomo")
"""Optimizers for the modules that `--optim_target_modules` names, which the small network does not have."""


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)
        self.config = PreTrainedConfig()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """Do nothing: no step is taken."""


def rehearse(args: FineTuningArguments) -> None:
    """Check that the Trainer accepts the settings, by making one with its optimizer and its schedule.

    `TrainingArguments` accepts values that only fail there, such as the options of a schedule.

    Raises:
        PipelineError: If it does not. The flags are named with which it would.
    """
    if (reason := _rejection(args)) is None:
        return
    raise_problems(
        f"the Trainer rejects --{name} {value} ({reason}): use another value, or remove it"
        for name, value in _culprits(args)
    )
    raise PipelineError(f"the Trainer rejects these settings ({reason}): change or remove the flags that set them")


def _rejection(args: FineTuningArguments) -> str | None:
    """Return the error of the Trainer in one line, or None."""
    with tempfile.TemporaryDirectory() as folder:
        args = copy.copy(args)
        args.output_dir, args.push_to_hub, args.report_to = folder, False, []
        rows: Any = [{"pixel_values": torch.zeros(1), "labels": 0}]
        try:
            trainer = Trainer(model=_Small(), args=args, train_dataset=rows, eval_dataset=rows)
            trainer.create_optimizer_and_scheduler(num_training_steps=10)
        except _REJECTIONS as error:
            if any(name in str(args.optim) for name in _OF_MODULES) and not isinstance(error, ImportError):
                return None
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def _culprits(args: FineTuningArguments) -> Iterator[tuple[str, Any]]:
    """Yield each changed flag without which the Trainer would accept the settings, with its value."""
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if not field.init or plain(value) == plain(default_of(field)):
            continue
        other = copy.copy(args)
        setattr(other, field.name, default_of(field))
        if _rejection(other) is None:
            yield field.name, plain(value)
