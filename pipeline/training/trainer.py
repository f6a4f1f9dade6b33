"""`StrictTrainer`: the Trainer of transformers with strict loading, our objective, averages, adapters and a clock."""

import contextlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from pipeline import watchdog
from pipeline.arguments.settings import Settings
from pipeline.images.device.batches import FixedBatches
from pipeline.images.processor import Normalize
from pipeline.images.train_images import TrainImages
from pipeline.images.transforms import ImageLoader
from pipeline.models import layers
from pipeline.performance.compilation import compile_network, uncompiled
from pipeline.performance.throughput import Clock
from pipeline.training.callbacks.margins import ROWS, Margins, NumberedRows
from pipeline.training.checkpoints import explain_misfit
from pipeline.training.objective import Objective
from pipeline.training.rewind import options_of, use_options
from pipeline.training.sampling import BalancedSampler
from pipeline.training.saving import CheckpointingTrainer


@dataclass(frozen=True)
class Components:
    """What a `StrictTrainer` needs in addition to the arguments of every Trainer.

    Attributes:
        settings: All settings of the training.
        images: The training images.
        objective: The loss, and the mixing of images.
        normalize: Turns uint8 pixels into the input of the network, on its device.
        input_size: Height and width of this input in pixels.
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
    input_size: tuple[int, int]
    clock: Clock
    flops: Callable[[tuple[int, int]], int]
    matmul_rate: float
    sampler: BalancedSampler | None = None
    margins: Margins | None = None


class StrictTrainer(CheckpointingTrainer):
    """The Trainer, except for what it loads, minimizes and measures."""

    def __init__(self, components: Components, **trainer: Any) -> None:
        """Initialize the Trainer.

        Args:
            components: Our components.
            trainer: The arguments of `transformers.Trainer`.
        """
        self.components = components
        images = components.images.dataset
        dataset = NumberedRows(images) if components.margins else images
        super().__init__(
            components.settings,
            components.clock,
            components.margins,
            compute_loss_func=components.objective,
            train_dataset=dataset,
            **trainer,
        )
        self.model_accepts_loss_kwargs = False  # our objective computes the loss; the network gets the images only
        self.halvings = 0  # of the learning rate, by rewinds

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
            if kind is torch.optim.SGD and self.args.device.type == "cuda":
                options["fused"] = True  # faster, and it can skip an update without waiting for the device
            self.optimizer = kind(groups, **options)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] = group["lr"] * 0.5**self.halvings
        return self.optimizer

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Compile the network when it is on its device and has its precision, if asked for."""
        prepared = super()._prepare_for_training(*args, **kwargs)
        flags = self.components.settings.trainer
        if flags.torch_compile is True:
            with self.components.clock.timed("compile"):
                self.compiled = compile_network(
                    self.accelerator.unwrap_model(self.model),
                    self.components.input_size,
                    batch=self.args.train_batch_size,
                    device=self.args.device,
                    backend=flags.torch_compile_backend,
                    mode=flags.torch_compile_mode,
                )
        return prepared

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
        """Return the loader of all validation images: `--dataloader_drop_last` is about training.

        Images on the device need no workers, which could not reach them.
        """
        options: dict[str, Any] = {"dataloader_drop_last": False}
        if isinstance(self.eval_dataset, FixedBatches):
            options |= {"dataloader_num_workers": 0, "dataloader_prefetch_factor": None,
                        "dataloader_persistent_workers": False, "dataloader_pin_memory": False}  # fmt: skip
        before = {name: getattr(self.args, name) for name in options}
        vars(self.args).update(options)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            vars(self.args).update(before)

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
        mode: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if model.training and self.compiled:
            inputs["pixel_values"] = self.compiled.fill(inputs["pixel_values"])
            mode = self.compiled.mode(inputs["pixel_values"])
        with mode:
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
        if rows is not None and self.components.margins is not None:
            self.components.margins.add(rows, outputs.logits[: len(labels)], labels)
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the Trainer's formula is for text, and costs time in every step. `Components.flops` counts."""
        del inputs
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the weights that would be saved, not compiled. The global random generator stays as it is."""
        mode = uncompiled() if self.compiled else contextlib.nullcontext()
        timed = self.components.clock.timed("evaluations")
        with timed, mode, self._deployed_weights(), torch.random.fork_rng(devices=[]):
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

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save every new best model, also if it is scored at a step between two saves."""
        is_new_best = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= is_new_best
        return is_new_best

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if self.accelerator.scaler is None:  # the scaler of fp16 skips such a step, and lowers its scale
            optimizer: Any = self.optimizer
            step, rate = self.state.global_step + 1, self._get_learning_rate()
            self.guard.look(norm, step=step, rate=rate, optimizer=getattr(optimizer, "optimizer", optimizer))
        return norm
