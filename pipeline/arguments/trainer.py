"""`FineTuningArguments`: the Trainer's own arguments, less those that would break what the pipeline promises.

Names and meaning are the Trainer's. Defaults that differ are the fields below; what may not change is in `FIXED`,
with its reason; what the machine decides is decided here, once, and said in one line.
"""

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from pipeline.arguments.rejected import REJECTED
from pipeline.errors import PipelineError, did_you_mean, refuse
from pipeline.performance.machine import best_precision, default_workers, usable_cores

logger = logging.getLogger(__name__)


@dataclass
class FineTuningArguments(TrainingArguments):
    """`TrainingArguments` with defaults for fine-tuning on a few thousand images.

    Raises:
        PipelineError: On construction, naming every argument that cannot hold together.
    """

    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the training images."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up: a count of steps, or below 1 a share of all of them."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images a step on one device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images a forward pass when scoring."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to score on validation: epoch or steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: as --eval_strategy, or best."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best one."})
    logging_steps: float = field(default=0.02, metadata={"help": "Log every so many steps, or share of all of them."})
    metric_for_best_model: str | None = field(
        default="accuracy", metadata={"help": "accuracy or loss, on validation: which checkpoint is kept."}
    )
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers, by the Trainer's names."}
    )
    dataloader_num_workers: int = field(
        default=-1, metadata={"help": "Processes that prepare images; -1: the machine decides."}
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "Make the Hub repository private."})
    ddp_find_unused_parameters: bool = field(
        default=False, metadata={"help": "Every parameter of a classifier has a gradient."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": REJECTED["remove_unused_columns"]})
    load_best_model_at_end: bool = field(default=True, metadata={"help": REJECTED["load_best_model_at_end"]})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": REJECTED["logging_nan_inf_filter"]})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": REJECTED["restore_callback_states_from_checkpoint"]}
    )
    do_train: bool = field(default=True, metadata={"help": REJECTED["do_train"]})
    do_eval: bool = field(default=True, metadata={"help": REJECTED["do_eval"]})
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        default="auto",
        metadata={"help": "What training computes in. auto: bf16 where the processor has it, else fp16 on a GPU."},
    )
    global_batch_size: int | None = field(
        default=None, metadata={"help": "Images a step over all devices; accumulation is derived."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better one."}
    )

    def __post_init__(self) -> None:
        """Check all at once, then let the machine decide what was left open."""
        refuse(self._problems())
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.precision == "auto":
            self.precision = best_precision(on_cpu=self.use_cpu)
        self.bf16, self.fp16 = self.precision == "bf16", self.precision == "fp16"
        if self.dataloader_num_workers < 0:
            self.dataloader_num_workers = default_workers(on_cpu=self.use_cpu)
        self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        chosen = self.output_dir
        super().__post_init__()
        self.output_dir = chosen  # which would be "trainer_output"; the run's default name is not ours to choose
        self._fit_global_batch()
        if self.n_gpu > 1:
            logger.info("%d GPUs are visible and one is used: set CUDA_VISIBLE_DEVICES to choose which", self.n_gpu)
            self._n_gpu = 1  # else the Trainer falls into DataParallel and multiplies the batch

    def describe(self) -> str:
        """What the machine decided, in one line."""
        batch = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        return (
            f"{self.device.type} x{self.world_size}, {self.precision}, {self.dataloader_num_workers} data workers, "
            f"batch {batch} ({self.per_device_train_batch_size} x {self.gradient_accumulation_steps} accumulated "
            f"x {self.world_size} processes)"
        )

    def machine(self) -> dict[str, Any]:
        """What the run computes on, for `run.json`."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type
        return {"device": name, "processes": self.world_size, "precision": self.precision, "cpus": usable_cores()}

    def resolved(self) -> dict[str, Any]:
        """The arguments that shape the run, and others that differ from their defaults, as plain values."""
        plain = {
            f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in _NOT_IN_RECIPE
        }
        defaults = {f.name: _plain(_default(f)) for f in dataclasses.fields(self)}
        if self.global_batch_size:
            del plain["gradient_accumulation_steps"]  # derived, and another where there are more processes
            plain["per_device_train_batch_size"] = self._most_per_device
        changed = {k for k, v in plain.items() if (v or None) != (defaults[k] or None)}
        return {k: v for k, v in plain.items() if v is not None and k in changed | _ALWAYS_IN_RECIPE}

    def _problems(self) -> list[str]:
        fields = {f.name: f for f in dataclasses.fields(self)}
        problems = [
            f"--{name} {getattr(self, name)} is not possible here: {why}"
            for name, why in REJECTED.items()
            if (_plain(getattr(self, name)) or None) != (_plain(_default(fields[name])) or None)
        ]
        if self.warmup_steps == 1:
            problems.append("--warmup_steps 1 would be one single step: write 0.1 for a tenth of all steps")
        if self.metric_for_best_model not in ("accuracy", "loss"):
            problems.append(f"--metric_for_best_model {self.metric_for_best_model}: it must be accuracy or loss")
        if self.eval_strategy not in ("epoch", "steps"):
            problems.append(
                f"--eval_strategy {self.eval_strategy}: the best is chosen on validation, so it must be epoch or steps"
            )
        if self.save_strategy not in (self.eval_strategy, "best"):
            problems.append(f"--save_strategy {self.save_strategy}: it must be {self.eval_strategy} or best")
        problems += _tracker_problems(self.report_to)
        problems += [
            f"a launch with {name} is not possible here: {REJECTED['fsdp']}; use distributed_type MULTI_GPU"
            for name in ("FSDP", "DEEPSPEED")
            if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"
        ]
        if self.push_to_hub and not self.hub_model_id:
            problems.append("--push_to_hub needs a name: add --hub_model_id OWNER/NAME")
        return problems

    def _fit_global_batch(self) -> None:
        """Derive batch and accumulation from `--global_batch_size`.

        Raises:
            PipelineError: If the processes cannot share the global batch evenly.
        """
        if self.global_batch_size is None:
            return
        share, left = divmod(self.global_batch_size, self.world_size)
        if left or not share:
            raise PipelineError(
                f"--global_batch_size {self.global_batch_size} is no multiple of the {self.world_size} processes"
            )
        self._most_per_device = self.per_device_train_batch_size
        fits = range(min(self.per_device_train_batch_size, share), 0, -1)
        self.per_device_train_batch_size = next(size for size in fits if share % size == 0)
        self.gradient_accumulation_steps = share // self.per_device_train_batch_size


def _tracker_problems(names: Sequence[str]) -> list[str]:
    installed = get_available_reporting_integrations()
    return [
        f"--report_to {name}: it is not installed (`pip install {name}`)"
        if name in INTEGRATION_TO_CALLBACK
        else f"--report_to {name}: no tracker of that name{did_you_mean(name, INTEGRATION_TO_CALLBACK)}"
        for name in names
        if name not in ("none", "all", *installed)
    ]


_ALWAYS_IN_RECIPE = frozenset({
    "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay",
    "max_grad_norm", "seed", "precision", "per_device_train_batch_size",
})  # fmt: skip

# Derived from others, or no part of what is learnt: the flags they come from are in the recipe.
_NOT_IN_RECIPE = {
    "bf16", "fp16", "use_cpu", "output_dir", "dataloader_persistent_workers", "dataloader_num_workers", "disable_tqdm",
    "greater_is_better", "dataloader_pin_memory", "accelerator_config", "local_rank", "do_eval", "debug",
    "gradient_checkpointing", "push_to_hub", "hub_model_id", "run_name",
}  # fmt: skip


def _default(f: "dataclasses.Field[Any]") -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _plain(value: Any) -> Any:
    """Enums as their values; what means "nothing" (empty, no tracker, "no") as None."""
    value = getattr(value, "value", value)
    return None if value in ([], {}, "", ["none"], "no") else value
