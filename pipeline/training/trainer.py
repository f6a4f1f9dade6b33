"""`StrictTrainer`: the Trainer of transformers with strict loading, our objective, averages, adapters and a clock."""

import contextlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor, PreTrainedModel, Trainer

from pipeline import distributed, watchdog
from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError
from pipeline.images.processor import Normalize
from pipeline.images.train_images import TrainImages
from pipeline.images.transforms import ImageLoader
from pipeline.models import layers, lora
from pipeline.models.checkpoint import load_strictly
from pipeline.performance.throughput import Clock
from pipeline.runs.checkpoints import TRAINING_WEIGHTS, checkpoint_folder, require_intact
from pipeline.runs.files import remove_absolute_path
from pipeline.runs.folder import ADAPTER
from pipeline.training.callbacks.averaging import MovingAverage, changing_tensors
from pipeline.training.callbacks.divergence import Guard
from pipeline.training.callbacks.margins import MARGINS, ROWS, Margins, NumberedRows
from pipeline.training.checkpoints import count_bytes, explain_misfit, saved_safely
from pipeline.training.objective import Objective
from pipeline.training.rewind import options_of, use_options
from pipeline.training.sampling import BalancedSampler


@dataclass(frozen=True)
class Components:
    """What a `StrictTrainer` needs in addition to the arguments of every Trainer.

    Attributes:
        settings: All settings of the training.
        images: The training images.
        objective: The loss, and the mixing of images.
        normalize: Turns uint8 pixels into the input of the network, on its device.
        clock: Measures the steps.
        flops: FLOPs of training on one image of a height and width in pixels.
        matmul_rate: FLOPs per second of large matrix products, over all processes.
        sampler: The order of the training images. None: each once per epoch, shuffled by the Trainer.
        margins: Collects the logit margins of the training images. None: they are not collected.
    """

    settings: Settings
    images: TrainImages
    objective: Objective
    normalize: Normalize
    clock: Clock
    flops: Callable[[tuple[int, int]], int]
    matmul_rate: float
    sampler: BalancedSampler | None = None
    margins: Margins | None = None


class StrictTrainer(Trainer):
    """The Trainer, except for what it loads, minimizes and measures.

    `model.safetensors` of a checkpoint always holds the model that is scored and deployed: averaged weights, merged
    adapters. If training needs other weights to resume, they are stored in a second file of the checkpoint.
    """

    model: PreTrainedModel

    def __init__(self, components: Components, **trainer: Any) -> None:
        """Initialize the Trainer.

        Args:
            components: Our components.
            trainer: The arguments of `transformers.Trainer`.
        """
        self.components = components
        images = components.images.dataset
        dataset = NumberedRows(images) if components.margins else images
        super().__init__(compute_loss_func=components.objective, train_dataset=dataset, **trainer)
        self.guard = Guard(peak_rate=self.args.learning_rate)
        self.halvings = 0  # of the learning rate, by rewinds
        decay = components.settings.strategy.ema_decay
        self.average = MovingAverage(self.model, decay) if decay else None
        if self.average:
            self.add_callback(self.average)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer with one learning rate and weight decay for each group of weights."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
            groups = layers.parameter_groups(
                self.model,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layer_decay=self.components.settings.strategy.layer_decay,
                head_learning_rate=self.components.settings.strategy.head_learning_rate,
            )
            self.optimizer = kind(groups, **options)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] = group["lr"] * 0.5**self.halvings
        return self.optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        options = options_of(self.optimizer)
        with explain_misfit(Path(checkpoint or "")):
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None:
                use_options(options, self.optimizer, self.lr_scheduler)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the images if they have their own, a balanced one if asked for, or the Trainer's."""
        args, images = self.args, self.components.images
        options: dict[str, Any] = {
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
            "prefetch_factor": args.dataloader_prefetch_factor,
        }
        if (loader := images.loader(batch_size=args.train_batch_size, **options)) is not None:
            return loader
        if self.components.sampler is None:
            return super().get_train_dataloader()
        balanced = ImageLoader(
            self.train_dataset,
            batch_size=args.train_batch_size,
            sampler=self.components.sampler,
            drop_last=args.dataloader_drop_last,
            persistent_workers=args.dataloader_persistent_workers,
            **options,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(balanced)
        return prepared

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        loader: Any = super()._get_dataloader(*args, **kwargs)
        loader.base_dataloader.worker_init_fn = watchdog.start_worker
        loader.base_dataloader.__class__ = ImageLoader  # Accelerate makes a plain one
        prepared: DataLoader[Any] = loader
        return prepared

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return the loader of all validation images: `--dataloader_drop_last` is about training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_batch_samples(self, *args: Any) -> Any:
        """Fetch the batches of one step, and measure how long that takes.

        Every new iterator of a data loader takes a seed from the global generator, and how many there are depends on
        the workers and on resumes. The images do not depend on that generator, so its state is restored.
        """
        clock = self.components.clock
        clock.data_requested()
        with torch.random.fork_rng(devices=[]), watchdog.waiting():  # the loader of a resumed epoch is a plain one
            batches, count = super().get_batch_samples(*args)
        images = [len(batch["labels"]) for batch in batches]
        flops = [self.components.flops(tuple(batch["pixel_values"].shape[-2:])) for batch in batches]
        world_size = self.args.world_size
        clock.data_received(world_size * sum(images), world_size * sum(map(operator.mul, images, flops)))
        return batches, count

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Normalize the images and, during training, mix them; then compute the loss, and collect the margins."""
        rows = inputs.get(ROWS)
        inputs = {key: value for key, value in inputs.items() if key != ROWS}
        inputs["pixel_values"] = self.components.normalize(inputs["pixel_values"])
        if model.training:
            inputs = self.components.objective.mix(inputs)
        labels = inputs["labels"]
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if rows is not None and self.components.margins is not None:
            self.components.margins.add(rows, outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the weights that would be saved. The global random generator stays as it is."""
        with self._deployed_weights(), torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the elapsed seconds, and the throughput and data wait since the last line."""
        clock = self.components.clock
        self.guard.require_finite(rate=self._get_learning_rate())
        logs["elapsed"] = round(clock.elapsed(), 2)
        if "loss" in logs:
            recent = clock.take_recent()
            logs |= {
                "images_per_second": round(recent.images_per_second, 2),
                "mfu": round(recent.speed(self.components.matmul_rate).mfu, 4),
                "data_wait": round(recent.data_wait, 4),
            }
        super().log(logs, start_time)

    def load_best_weights(self) -> None:
        """Load the best checkpoint strictly; adapters are saved if asked for, and merged.

        Raises:
            PipelineError: If a tensor is missing, unexpected, or has another shape.
        """
        # The path in the state is stale if the run folder was moved; the step is not.
        best = checkpoint_folder(Path(str(self.args.output_dir)), int(self.state.best_global_step or 0))
        require_intact(best)
        network: Any = self.accelerator.unwrap_model(self.model)
        if isinstance(network, PeftModel):
            self._restore(best)
            with self._deployed_weights():
                if self.components.settings.strategy.keep_adapter and distributed.is_main_process():
                    base = self.components.settings.model
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
        if self.components.margins:
            self.components.margins.restore(folder / MARGINS)
        if self._resume_weights():
            self._restore(folder)
        else:
            load_strictly(model or self.model, folder)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save every new best model, also if it is scored at a step between two saves."""
        is_new_best = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= is_new_best
        return is_new_best

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if self.accelerator.scaler is None:  # the scaler of fp16 skips such a step, and lowers its scale
            self.guard.look(norm, step=self.state.global_step + 1, rate=self._get_learning_rate())
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.guard.require_finite(self.model, rate=self._get_learning_rate())
        optimizer: Any = self.optimizer
        with saved_safely(
            checkpoint_folder(Path(str(self.args.output_dir)), self.state.global_step),
            weights=count_bytes([self.model.state_dict(), optimizer.state_dict(), self._resume_weights()]),
            best=self.state.best_global_step,
            keep=self.components.settings.trainer.save_total_limit,
        ):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        del state_dict
        folder = Path(str(output_dir))
        with self._deployed_weights():
            network: Any = self.accelerator.unwrap_model(self.model)
            (lora.merged(network) if isinstance(network, PeftModel) else network).save_pretrained(folder)
        cast(BaseImageProcessor, self.processing_class).save_pretrained(folder)
        if weights := self._resume_weights():
            save_file(weights, folder / TRAINING_WEIGHTS)
        if self.components.margins:
            (folder / MARGINS).write_bytes(self.components.margins.content())

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
