"""A network, its images and the settings -> a `StrictTrainer` that is ready to train."""

import copy
import functools
from collections import Counter
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import BaseImageProcessor, EarlyStoppingCallback, EvalPrediction, PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.labels import read_integers
from pipeline.data.streaming import Share, Stream
from pipeline.evaluation.metrics import Accuracy, compute
from pipeline.images import disk_cache
from pipeline.images.processor import ImageProcessor, Normalize, input_size
from pipeline.images.transforms import EvalTransform, TrainTransform, collate
from pipeline.models import layers, lora, patch_dropout
from pipeline.performance import batch_size, flops
from pipeline.performance.machine import best_attention
from pipeline.performance.matmul import matmul_rate
from pipeline.performance.throughput import Clock
from pipeline.training import callbacks
from pipeline.training.objective import Objective
from pipeline.training.trainer import Parts, StrictTrainer


def build_trainer(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    folder: Path,
    settings: Settings,
    clock: Clock,
    beside: list[TrainerCallback],
) -> StrictTrainer:
    """Make the Trainer of a fine-tuning.

    Args:
        model: What is trained of it, the settings say.
        processor: Of the model.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        folder: Where the checkpoints go.
        settings: All that shapes the training.
        clock: Measures it.
        beside: Callbacks, beside those that the settings ask for.

    Raises:
        PipelineError: If the network cannot do what the settings ask for.
    """
    args, size = settings.trainer, input_size(processor)
    network = _prepare(model, size, settings)
    mine = _trainer_arguments(settings, network, size, folder)
    transform = TrainTransform(processor, settings.augmentation, seed=args.seed)
    trainer = StrictTrainer(
        Parts(
            settings=settings,
            objective=_objective(splits["train"], settings),
            normalize=Normalize(processor),
            clock=clock,
            epoch=transform.epoch,
            flops=functools.cache(functools.partial(flops.training_flops, network)),
            matmul_rate=matmul_rate(args.device, args.precision) * args.world_size,
        ),
        model=network,
        args=mine,
        data_collator=collate,
        train_dataset=_images(splits["train"], transform, mine, limit_gb=settings.augmentation.image_cache_gb),
        eval_dataset=splits["validation"].with_transform(EvalTransform(processor)),
        processing_class=cast(BaseImageProcessor, processor),
        compute_metrics=_compute_metrics,
        preprocess_logits_for_metrics=_predictions_and_losses,
        callbacks=[
            callbacks.SetEpoch(transform.epoch),
            callbacks.StopWhenDiverged(),
            callbacks.Progress(clock),
            *_stopping_callbacks(settings, clock),
            *beside,
        ],
    )
    trainer.remove_callback(PrinterCallback)  # our own lines and bar say it
    trainer.remove_callback(ProgressCallback)
    return trainer


def _prepare(model: PreTrainedModel, size: tuple[int, int], settings: Settings) -> Any:
    """The network with what is not trained frozen, and with adapters where the strategy is LoRA."""
    freeze_unused_parameters(model, size)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(best_attention(settings.trainer.device, settings.trainer.precision))
    if rate := settings.augmentation.patch_drop_rate:
        patch_dropout.drop_patches(model, rate, size)
    chosen = settings.adaptation
    if chosen.freeze_blocks:
        layers.freeze_blocks(model, chosen.freeze_blocks)
    if chosen.strategy != "lora":
        return model
    return lora.add_lora(model, rank=chosen.lora_rank, alpha=chosen.lora_alpha, dropout=chosen.lora_dropout)


def freeze_unused_parameters(model: PreTrainedModel, size: tuple[int, int]) -> None:
    """Take out of the training what the classes do not depend on, such as the mask token of DINOv2.

    Several processes would wait for its gradient without end; searching for it at every step costs time. It is found
    once, on a copy without weights, for which nothing is computed.

    Args:
        model: Whose parameters are marked.
        size: Height and width of its images in pixels.
    """
    with torch.device("meta"):
        shadow: Any = type(model)(copy.deepcopy(model.config))
        shadow(pixel_values=torch.zeros(2, 3, *size)).logits.sum().backward()
    for weight, reached in zip(model.parameters(), shadow.parameters(), strict=True):
        weight.requires_grad_(reached.grad is not None)


def _objective(train: datasets.Dataset | Stream, settings: Settings) -> Objective:
    classes = range(len(train.features["label"].names))
    # Which only weights need.
    counts = Counter(classes) if isinstance(train, Stream) else Counter(read_integers(train).tolist())
    return Objective(
        settings.augmentation,
        class_counts=[counts[number] for number in classes],
        label_smoothing=settings.trainer.label_smoothing_factor,
    )


def _images(
    train: datasets.Dataset | Stream, transform: TrainTransform, args: FineTuningArguments, *, limit_gb: float
) -> datasets.Dataset | Share:
    """The training images, transformed as they are asked for."""
    if isinstance(train, Stream):
        return Share(train, transform, batch_size=args.train_batch_size, seed=args.seed, epoch=transform.epoch)
    if transform.augment is not None:  # else the network sees what evaluation sees, to the last bit
        train = disk_cache.cache_decoded(
            train, transform, limit_gb=limit_gb, epochs=args.num_train_epochs, split_name="train"
        )
    return train.with_transform(transform)


def _stopping_callbacks(settings: Settings, clock: Clock) -> list[TrainerCallback]:
    """What ends a training before its last step."""
    found: list[TrainerCallback] = []
    if settings.trainer.early_stopping_patience is not None:
        found.append(EarlyStoppingCallback(early_stopping_patience=settings.trainer.early_stopping_patience))
    if settings.adaptation.max_hours is not None:
        found.append(callbacks.StopAfterHours(settings.adaptation.max_hours, clock))
    return found


def _trainer_arguments(settings: Settings, network: Any, size: tuple[int, int], folder: Path) -> FineTuningArguments:
    """The arguments as the Trainer gets them: it saves checkpoints into the folder, and pushes nothing."""
    mine = copy.copy(settings.trainer)
    if mine.auto_find_batch_size:
        mine.auto_find_batch_size, wanted = False, mine.per_device_train_batch_size  # the Trainer's own loses a resume
        load = batch_size.Load(mine.precision, 2 + (mine.world_size > 1) + (settings.adaptation.ema_decay is not None))
        fits = batch_size.find_batch_size(network, size, batch=wanted, device=mine.device, load=load)
        mine.per_device_train_batch_size = fits
        mine.gradient_accumulation_steps *= wanted // fits
    mine.output_dir, mine.push_to_hub = str(folder), False
    mine.label_smoothing_factor = 0.0  # our objective smooths, and the Trainer would smooth the validation loss too
    return mine


def _predictions_and_losses(logits: Tensor, labels: Tensor) -> Any:
    """Only these are kept while the Trainer evaluates: the logits of a large split would fill the memory."""
    return logits.argmax(dim=-1), torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, and the mean loss of an image.

    The Trainer's own mean counts images again that fill up the batches of several processes.
    """
    numbers, losses = cast(tuple[Any, Any], prediction.predictions)
    result = compute(Accuracy(), np.asarray(numbers), np.asarray(prediction.label_ids))
    return {"accuracy": result["accuracy"], "loss": float(np.mean(losses, dtype=np.float64))}
