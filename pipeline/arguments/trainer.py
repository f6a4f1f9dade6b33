"""`FineTuningArguments`: the flags of the training loop, joined with the fields of `transformers.TrainingArguments`.

Names and meanings are the Trainer's. What the machine decides is decided here, once, and logged in one line.
"""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from pipeline.arguments.checks import trainer_problems
from pipeline.arguments.flags import default_of, flags_of, plain
from pipeline.arguments.inherited import TRACKERS
from pipeline.arguments.training import TrainingFlags
from pipeline.errors import PipelineError, raise_problems
from pipeline.performance.machine import best_precision, default_workers, usable_cores

logger = logging.getLogger(__name__)

_PER_DEVICE_BATCH = 16  # images, which fit into the memory of a laptop with ViT-B/16 at 224 px


@dataclass
class FineTuningArguments(TrainingFlags, TrainingArguments):  # type: ignore[misc] # narrower types of three fields
    """`TrainingArguments` with defaults for fine-tuning on a few thousand images, resolved for this machine.

    Raises:
        PipelineError: On construction, naming every flag that is rejected or invalid.
    """

    def __post_init__(self) -> None:
        """Check all flags, then let the machine decide what was left open."""
        raise_problems([*trainer_problems(self), *_tracker_problems(self.report_to)])
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
        output_dir = self.output_dir
        self._requested_per_device_batch = cast(int | None, self.per_device_train_batch_size)
        if self._requested_per_device_batch is None:
            self.per_device_train_batch_size = _PER_DEVICE_BATCH
        compiling = (self.torch_compile, self.torch_compile_backend, self.torch_compile_mode)
        # With these, the Trainer would turn on TF32 for everything that follows, also for the scores in fp32.
        self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = False, None, None
        super().__post_init__()
        self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = compiling
        if self.torch_compile is None and any(compiling[1:]):
            self.torch_compile = True
        self.output_dir = output_dir  # the Trainer would set "trainer_output"; the workflow names the run folder
        self._fit_global_batch()
        if self.n_gpu > 1:
            logger.info("using 1 of %d visible GPUs: set CUDA_VISIBLE_DEVICES to choose another", self.n_gpu)
            self._n_gpu = 1  # with more, the Trainer would use DataParallel and multiply the batch size

    @property
    def finds_batch_size(self) -> bool:
        """Whether the per-device batch size is the largest that fits in memory, up to the one that is set."""
        return self.auto_find_batch_size or self._takes_its_share

    @property
    def _takes_its_share(self) -> bool:
        left_open = self.global_batch_size is not None and self._requested_per_device_batch is None
        return left_open and not self.use_cpu

    def describe(self) -> str:
        """Return what the machine decided, in one line."""
        batch = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        return (
            f"{self.device.type} x{self.world_size}, {self.precision}, {self.dataloader_num_workers} data workers, "
            f"batch size {batch} ({self.per_device_train_batch_size} per device x {self.gradient_accumulation_steps} "
            f"gradient accumulation x {self.world_size} processes)"
        )

    def machine(self) -> dict[str, Any]:
        """Return what the run computes on, for `run.json`."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type
        return {
            "device": name,
            "processes": self.world_size,
            "precision": self.precision,
            "cpus": usable_cores(),
        }

    def resolved(self) -> dict[str, Any]:
        """Return the flags that `recipe.yaml` states: those that shape the run, and others that were changed."""
        roles = flags_of(self)
        values = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        defaults = {f.name: plain(default_of(f)) for f in dataclasses.fields(self)}
        if self.global_batch_size:
            # Derived, and different with another number of processes or another GPU.
            del values["gradient_accumulation_steps"]
            values["per_device_train_batch_size"] = self._requested_per_device_batch
        return {
            name: value
            for name, value in values.items()
            if value is not None
            and roles[name].recipe != "never"
            and (roles[name].recipe == "always" or (value or None) != (defaults[name] or None))
        }

    def _fit_global_batch(self) -> None:
        """Derive the per-device batch size and gradient accumulation from `--global_batch_size`.

        A GPU takes its share in one forward pass, because several small ones are slower; if they do not fit in its
        memory, `find_batch_size` finds out how many do.

        Raises:
            PipelineError: If the processes cannot share the global batch evenly.
        """
        if self.global_batch_size is None:
            return
        per_process, remainder = divmod(self.global_batch_size, self.world_size)
        if remainder or not per_process:
            raise PipelineError(
                f"--global_batch_size {self.global_batch_size} is not a multiple of the number of processes: use a "
                f"multiple of {self.world_size}"
            )
        largest = per_process if self._takes_its_share else self.per_device_train_batch_size
        sizes = range(min(largest, per_process), 0, -1)
        self.per_device_train_batch_size = next(size for size in sizes if per_process % size == 0)
        self.gradient_accumulation_steps = per_process // self.per_device_train_batch_size


def _tracker_problems(names: Sequence[str]) -> Iterator[str]:
    installed = get_available_reporting_integrations()
    for name in names:
        if name in TRACKERS and name not in installed:
            yield f"--report_to {name} is not installed: run `pip install {name}`, or remove it"
