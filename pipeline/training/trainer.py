"""`StrictTrainer`: transformers' Trainer with strict loading, our objective, averages and adapters, and a clock."""

import contextlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import BaseImageProcessor, PreTrainedModel, Trainer

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.data.labels import read_integers
from pipeline.data.streaming import Share
from pipeline.errors import PipelineError
from pipeline.images.processor import Normalize
from pipeline.models import layers, lora
from pipeline.models.checkpoint import load_strictly
from pipeline.performance.throughput import Clock
from pipeline.runs.checkpoints import TRAINING_WEIGHTS
from pipeline.runs.files import remove_absolute_path
from pipeline.runs.folder import ADAPTER
from pipeline.training.averaging import MovingAverage, changing_tensors
from pipeline.training.objective import Objective
from pipeline.training.sampling import BalancedSampler


@dataclass(frozen=True)
class Parts:
    """What a `StrictTrainer` is made of beside what every Trainer has."""

    settings: Settings
    objective: Objective
    normalize: Normalize
    clock: Clock
    epoch: Tensor
    flops: Callable[[tuple[int, int]], int]  # of training on an image of that height and width
    matmul_rate: float  # operations a second, over all processes


class StrictTrainer(Trainer):
    """The Trainer, except for what it loads, minimises and measures.

    A checkpoint's `model.safetensors` is always what is scored and deployed: an ordinary network, its weights averaged
    and its adapters merged. What the training itself goes on from lies beside it where it differs.
    """

    model: PreTrainedModel

    def __init__(self, parts: Parts, **trainer: Any) -> None:
        """Take our parts, and the Trainer's own arguments."""
        self.parts = parts
        super().__init__(compute_loss_func=parts.objective, **trainer)
        decay = parts.settings.adaptation.ema_decay
        self.average = MovingAverage(self.model, decay) if decay else None
        if self.average:
            self.add_callback(self.average)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer that the arguments name, on groups of weights with their own rates and decays."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
            groups = layers.parameter_groups(
                self.model,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layer_decay=self.parts.settings.adaptation.layer_decay,
                head_learning_rate=self.parts.settings.adaptation.head_learning_rate,
            )
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Blend the images first, where that is asked for, while training."""
        if model.training:
            inputs = self.parts.objective.mix(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def get_batch_samples(self, *args: Any) -> Any:
        """Fetch the batches of one step, on the clock."""
        self.parts.clock.ask()
        batches, count = super().get_batch_samples(*args)
        images = [len(batch["labels"]) for batch in batches]
        flops = [self.parts.flops(tuple(batch["pixel_values"].shape[-2:])) for batch in batches]
        world = self.args.world_size
        self.parts.clock.get(world * sum(images), world * sum(map(operator.mul, images, flops)))
        return batches, count

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the weights that would be saved."""
        with self._as_deployed():
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the clock says: seconds so far; rate and share of waiting since the last line."""
        logs["elapsed"] = round(self.parts.clock.elapsed(), 2)
        if "loss" in logs:
            span = self.parts.clock.take_latest()
            mfu = span.flops_rate / self.parts.matmul_rate
            logs |= {"images_per_second": round(span.rate, 2), "mfu": round(mfu, 4), "data_wait": round(span.wait, 4)}
        super().log(logs, start_time)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        return inputs | {"pixel_values": self.parts.normalize(inputs["pixel_values"])}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Let a stream share itself out; all else is the Trainer's."""
        if not isinstance(self.train_dataset, Share):
            return super().get_train_dataloader()
        args = self.args
        return self.train_dataset.loader(
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if not self.parts.settings.augmentation.balanced_sampling:
            return super()._get_train_sampler(train_dataset)
        labels = read_integers(cast(datasets.Dataset, self.train_dataset))
        return BalancedSampler(labels, seed=self.args.seed, epoch=self.parts.epoch)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        del state_dict
        folder = Path(str(output_dir))
        with self._as_deployed():
            network: Any = self.accelerator.unwrap_model(self.model)
            (lora.merged(network) if isinstance(network, PeftModel) else network).save_pretrained(folder)
        cast(BaseImageProcessor, self.processing_class).save_pretrained(folder)
        if own := self._own_weights():
            save_file(own, folder / TRAINING_WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if self._own_weights():
            self._restore(folder)
        else:
            load_strictly(model or self.model, folder)

    def _load_best_model(self) -> None:
        # From the step and not from the path in the state, which is stale once the run folder was moved.
        best = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
        network: Any = self.accelerator.unwrap_model(self.model)
        if isinstance(network, PeftModel):
            self._restore(best)
            with self._as_deployed():
                if self.parts.settings.adaptation.keep_adapter and distributed.is_main_process():
                    base = self.parts.settings.model
                    lora.save_adapter(
                        network,
                        best.parent / ADAPTER,
                        base_name=remove_absolute_path(base.model_name_or_path),
                        revision=base.model_revision,
                    )
                network = lora.unwrap(network)
        load_strictly(network, best)
        self.model = self.model_wrapped = network
        self.average = None  # it is what was loaded

    @contextlib.contextmanager
    def _as_deployed(self) -> Iterator[None]:
        with self.average.in_place() if self.average else contextlib.nullcontext():
            yield

    def _own_weights(self) -> dict[str, Tensor]:
        """What a resume needs and `model.safetensors` does not hold: weights before their average, or apart from it."""
        if self.average is None and not isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            return {}
        own = {f"trained.{name}": tensor.detach() for name, tensor in changing_tensors(self.model).items()}
        if self.average:
            own |= {f"average.{name}": tensor for name, tensor in self.average.average.items()}
        return {name: tensor.contiguous() for name, tensor in own.items()}

    def _restore(self, folder: Path) -> None:
        """Load what `_save` wrote of `_own_weights`.

        Raises:
            PipelineError: If any tensor is missing, left over, or of another shape.
        """
        own = self._own_weights()
        saved = load_file(folder / TRAINING_WEIGHTS)
        if {name: tensor.shape for name, tensor in saved.items()} != {name: t.shape for name, t in own.items()}:
            raise PipelineError(f"{folder / TRAINING_WEIGHTS} does not fit the model: choose another --output_dir")
        with torch.no_grad():
            for name, tensor in changing_tensors(self.model).items():
                tensor.copy_(saved[f"trained.{name}"])
            for name, tensor in (self.average.average if self.average else {}).items():
                tensor.copy_(saved[f"average.{name}"])
