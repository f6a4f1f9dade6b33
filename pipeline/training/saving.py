"""`CheckpointingTrainer`: how the Trainer saves checkpoints, and how it loads them strictly."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel, Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError
from pipeline.models import lora
from pipeline.models.checkpoint import load_strictly
from pipeline.performance.compilation import CompiledNetwork
from pipeline.performance.throughput import Clock
from pipeline.runs.background import Background
from pipeline.runs.checkpoints import TRAINING_WEIGHTS, checkpoint_folder, require_intact
from pipeline.runs.files import remove_absolute_path
from pipeline.runs.folder import ADAPTER
from pipeline.training.callbacks.averaging import MovingAverage, changing_tensors
from pipeline.training.callbacks.divergence import Guard
from pipeline.training.callbacks.margins import MARGINS, Margins
from pipeline.training.checkpoints import Writes, count_bytes, explain_misfit, in_background, saved_safely, snapshot


class CheckpointingTrainer(Trainer):
    """The Trainer, except for its checkpoints.

    `model.safetensors` of a checkpoint always holds the model that is scored and deployed: averaged weights, merged
    adapters. If training needs other weights to resume, they are stored in a second file of the checkpoint.
    """

    model: PreTrainedModel

    def __init__(self, settings: Settings, clock: Clock, margins: Margins | None, **trainer: Any) -> None:
        """Initialize the Trainer, and the average of the weights.

        Args:
            settings: All settings of the training.
            clock: Measures the checkpoints.
            margins: What a checkpoint holds of the logit margins. None: nothing.
            trainer: The arguments of `transformers.Trainer`.
        """
        super().__init__(**trainer)
        self.settings, self.clock, self.margins = settings, clock, margins
        self.compiled: CompiledNetwork | None = None
        self.guard = Guard(peak_rate=self.args.learning_rate)
        self._background = Background() if in_background(settings.trainer) else None
        self._later: Writes | None = None
        decay = settings.strategy.ema_decay
        self.average = MovingAverage(self.model, decay) if decay else None
        if self.average:
            self.add_callback(self.average)

    def load_best_weights(self) -> None:
        """Load the best checkpoint strictly; adapters are saved if asked for, and merged.

        Raises:
            PipelineError: If a tensor is missing, unexpected, or has another shape.
        """
        # The path in the state is stale if the run folder was moved; the step is not.
        self.finish_save()
        best = checkpoint_folder(Path(str(self.args.output_dir)), int(self.state.best_global_step or 0))
        require_intact(best)
        if self.compiled:
            self.compiled.restore()
        network: Any = self.accelerator.unwrap_model(self.model)
        if isinstance(network, PeftModel):
            self._restore(best)
            with self._deployed_weights():
                if self.settings.strategy.keep_adapter and distributed.is_main_process():
                    base = self.settings.model
                    lora.save_adapter(
                        network,
                        best.parent / ADAPTER,
                        base_name=remove_absolute_path(base.model_name_or_path),
                        revision=base.model_revision,
                    )
                network = lora.unwrap(network)
        load_strictly(network, best)
        self.model = self.model_wrapped = network
        self.average = None  # the loaded weights are the average

    def _load_best_model(self) -> None:
        self.load_best_weights()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if self.margins:
            self.margins.restore(folder / MARGINS)
        if self._resume_weights():
            self._restore(folder)
        else:
            load_strictly(model or self.model, folder)

    def finish_save(self) -> None:
        """Wait until the last checkpoint is complete.

        Raises:
            PipelineError: If it cannot be written.
        """
        if self._background:
            self._background.join()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.clock.timed("checkpoints"):
            self.finish_save()
            self.guard.require_finite(self.model, rate=self._get_learning_rate())
            optimizer: Any = self.optimizer
            with saved_safely(
                checkpoint_folder(Path(str(self.args.output_dir)), self.state.global_step),
                weights=count_bytes([self.model.state_dict(), optimizer.state_dict(), self._resume_weights()]),
                best=self.state.best_global_step,
                keep=self.settings.trainer.save_total_limit,
                background=self._background,
            ) as self._later:
                super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        del state_dict
        folder = Path(str(output_dir))
        with self._deployed_weights():
            network: Any = self.accelerator.unwrap_model(self.model)
            network = lora.merged(network) if isinstance(network, PeftModel) else network
            self._write(lambda weights: network.save_pretrained(folder, state_dict=weights), network.state_dict())
        cast(BaseImageProcessor, self.processing_class).save_pretrained(folder)
        if weights := self._resume_weights():
            self._write(lambda saved: save_file(saved, folder / TRAINING_WEIGHTS), weights)
        if self.margins:
            (folder / MARGINS).write_bytes(self.margins.content())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._later is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        self._write(lambda state: torch.save(state, Path(output_dir) / OPTIMIZER_NAME), optimizer.state_dict())
        torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _write(self, write: Callable[[Any], object], state: Any) -> None:
        """Write a state now, or a copy of it in the background, while training changes the tensors."""
        if self._later is None:
            write(state)
        else:
            self._later.append(functools.partial(write, snapshot(state)))

    @contextlib.contextmanager
    def _deployed_weights(self) -> Iterator[None]:
        with self.average.in_place() if self.average else contextlib.nullcontext():
            yield

    def _resume_weights(self) -> dict[str, Tensor]:
        """Return what a resume needs and `model.safetensors` does not hold: weights before averaging or merging."""
        if self.average is None and not isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            return {}
        weights = {f"trained.{name}": tensor.detach() for name, tensor in changing_tensors(self.model).items()}
        if self.average:
            weights |= {f"average.{name}": tensor for name, tensor in self.average.average.items()}
        return {name: tensor.contiguous() for name, tensor in weights.items()}

    def _restore(self, folder: Path) -> None:
        """Load what `_save` wrote of `_resume_weights`.

        Raises:
            PipelineError: If a tensor is missing, unexpected, or has another shape.
        """
        with explain_misfit(folder):
            saved = load_file(folder / TRAINING_WEIGHTS)
        expected = {name: tensor.shape for name, tensor in self._resume_weights().items()}
        if {name: tensor.shape for name, tensor in saved.items()} != expected:
            raise PipelineError(f"{folder / TRAINING_WEIGHTS} does not fit the model: choose another --output_dir")
        with torch.no_grad():
            for name, tensor in changing_tensors(self.model).items():
                tensor.copy_(saved[f"trained.{name}"])
            for name, tensor in (self.average.average if self.average else {}).items():
                tensor.copy_(saved[f"average.{name}"])
