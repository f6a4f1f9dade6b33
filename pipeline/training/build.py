"""A classifier, images and settings -> a `StrictTrainer` that is ready to train."""

import copy
import functools
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BaseImageProcessor, EarlyStoppingCallback, EvalPrediction, PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.evaluation.metrics import Accuracy, compute
from pipeline.images.processor import Normalize
from pipeline.images.train_images import PreparedImages
from pipeline.images.transforms import collate
from pipeline.models import layers, lora, patch_dropout
from pipeline.models.classifier import ImageClassifier
from pipeline.performance import batch_size, flops
from pipeline.performance.machine import best_attention
from pipeline.performance.matmul import matmul_rate
from pipeline.performance.throughput import Clock
from pipeline.training.callbacks import loop
from pipeline.training.callbacks.margins import Margins
from pipeline.training.callbacks.pushing import PushCheckpoints
from pipeline.training.checkpoints import saved_batch_size
from pipeline.training.objective import Objective
from pipeline.training.sampling import BalancedSampler
from pipeline.training.trainer import Components, StrictTrainer

logger = logging.getLogger(__name__)


def build_trainer(
    classifier: ImageClassifier,
    images: PreparedImages,
    *,
    folder: Path,
    settings: Settings,
    clock: Clock,
    extra_callbacks: list[TrainerCallback],
) -> StrictTrainer:
    """Return the Trainer of a fine-tuning.

    Args:
        classifier: Its network is prepared in place: frozen, or given adapters, as the settings say.
        images: The training and the validation images.
        folder: Where the checkpoints go.
        settings: All settings of the training.
        clock: Measures the training.
        extra_callbacks: Callbacks in addition to those that the settings ask for.

    Raises:
        PipelineError: If the network does not support the settings.
    """
    network = prepare(classifier.model, classifier.input_size, settings)
    args = _trainer_arguments(settings, folder)
    if args.finds_batch_size:
        _find_batch_size(args, network, classifier.input_size, settings)
    _set_loading(args, on_device=images.cache == "device")
    margins = _margins(images, settings)
    components = Components(
        settings=settings,
        images=images.train,
        sampler=_sampler(images, settings),
        objective=_objective(images.labels, len(classifier.class_names), settings),
        normalize=Normalize(classifier.processor),
        input_size=classifier.input_size,
        clock=clock,
        flops=functools.cache(functools.partial(flops.training_flops, network)),
        margins=margins,
        matmul_rate=matmul_rate(args.device, args.precision) * args.world_size,
    )
    trainer = StrictTrainer(
        components,
        model=network,
        args=args,
        data_collator=collate,
        eval_dataset=images.validation,
        processing_class=cast(BaseImageProcessor, classifier.processor),
        compute_metrics=_compute_metrics,
        preprocess_logits_for_metrics=_predictions_and_losses,
        callbacks=[
            loop.SetEpoch(images.train.epoch),
            loop.StopWhenDiverged(),
            loop.Progress(clock),
            *_stopping_callbacks(settings, clock),
            *filter(None, [margins, PushCheckpoints.of(settings.trainer, folder)]),
            *extra_callbacks,
        ],
    )
    trainer.remove_callback(PrinterCallback)  # our log lines and progress bar replace both
    trainer.remove_callback(ProgressCallback)
    return trainer


def prepare(model: PreTrainedModel, size: tuple[int, int], settings: Settings) -> Any:
    """Return the network with untrained parameters frozen, and with adapters if the strategy is LoRA."""
    freeze_unused_parameters(model, size)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(best_attention(settings.trainer.device, settings.trainer.precision))
    if rate := settings.images.patch_drop_rate:
        patch_dropout.drop_patches(model, rate, size)
    strategy = settings.strategy
    if strategy.freeze_blocks:
        layers.freeze_blocks(model, strategy.freeze_blocks)
    if strategy.strategy != "lora":
        return model
    return lora.add_lora(model, rank=strategy.lora_rank, alpha=strategy.lora_alpha, dropout=strategy.lora_dropout)


def freeze_unused_parameters(model: PreTrainedModel, size: tuple[int, int]) -> None:
    """Freeze the parameters that do not affect the logits, such as the mask token of DINOv2.

    Several processes would wait for their gradients forever, and searching for them at every step costs time. They are
    found once, with a backward pass on a copy without memory.

    Args:
        model: The network; `requires_grad` of its parameters is set.
        size: Height and width of its images in pixels.
    """
    with torch.device("meta"):
        shadow: Any = type(model)(copy.deepcopy(model.config))
        shadow(pixel_values=torch.zeros(2, 3, *size)).logits.sum().backward()
    for weight, shadow_weight in zip(model.parameters(), shadow.parameters(), strict=True):
        weight.requires_grad_(shadow_weight.grad is not None)


def _objective(labels: NDArray[np.int64] | None, num_classes: int, settings: Settings) -> Objective:
    # Only class weights need the counts, and a stream, whose labels are unknown, rejects class weights.
    counts = np.ones(num_classes, int) if labels is None else np.bincount(labels, minlength=num_classes)
    return Objective(
        settings.images,
        settings.objective,
        class_counts=counts.tolist(),
        label_smoothing=settings.trainer.label_smoothing_factor,
    )


def _set_loading(args: FineTuningArguments, *, on_device: bool) -> None:
    """Set how the loaders of the Trainer work. Batches that are on the device already need no workers."""
    if on_device:
        args.dataloader_num_workers, args.dataloader_prefetch_factor = 0, None
        args.dataloader_persistent_workers = args.dataloader_pin_memory = False
    # Otherwise the upload of a batch would wait until the device has finished the previous step.
    uploads: Any = copy.copy(args.accelerator_config)
    uploads.non_blocking = args.dataloader_pin_memory and args.device.type != "cpu"
    args.accelerator_config = uploads


def _sampler(images: PreparedImages, settings: Settings) -> BalancedSampler | None:
    if images.labels is None or not settings.objective.balanced_sampling:
        return None
    return BalancedSampler(images.labels, seed=settings.trainer.seed, epoch=images.train.epoch)


def _margins(images: PreparedImages, settings: Settings) -> Margins | None:
    """Return what collects the logit margins, or None if they are not wanted or the images of a batch are mixed."""
    if images.labels is None or settings.trainer.audit == "no":
        return None
    if settings.images.mixup or settings.images.cutmix:
        logger.info("logit margins are not collected, because --mixup or --cutmix mixes the labels of a batch")
        return None
    return Margins(len(images.labels))


def _stopping_callbacks(settings: Settings, clock: Clock) -> list[TrainerCallback]:
    """Return the callbacks that can end the training before its last step."""
    found: list[TrainerCallback] = []
    if settings.trainer.early_stopping_patience is not None:
        found.append(EarlyStoppingCallback(early_stopping_patience=settings.trainer.early_stopping_patience))
    if settings.trainer.max_hours is not None:
        found.append(loop.StopAfterHours(settings.trainer.max_hours, clock))
    return found


def _find_batch_size(args: FineTuningArguments, network: Any, size: tuple[int, int], settings: Settings) -> None:
    """Set the per-device batch size to the largest that fits, and the gradient accumulation accordingly."""
    args.auto_find_batch_size = False  # the Trainer's own search restarts a resumed run with another batch size
    share = args.per_device_train_batch_size
    # A resumed run repeats the batches of its checkpoint, whatever else is in the memory now.
    saved = saved_batch_size(Path(str(args.output_dir)))
    requested = saved if saved and share % saved == 0 else share
    copies = 2 + (args.world_size > 1) + (settings.strategy.ema_decay is not None)
    memory = batch_size.TrainingMemory(args.precision, copies)
    fits = batch_size.find_batch_size(network, size, requested=requested, device=args.device, memory=memory)
    args.gradient_accumulation_steps *= share // fits
    args.per_device_train_batch_size = fits


def _trainer_arguments(settings: Settings, folder: Path) -> FineTuningArguments:
    """Return the arguments for the Trainer, which saves checkpoints into the folder and pushes nothing."""
    args = copy.copy(settings.trainer)
    args.output_dir, args.push_to_hub = str(folder), False
    args.save_total_limit = None  # old checkpoints are removed by us, after the new one is complete on the disk
    args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None  # we compile
    args.label_smoothing_factor = 0.0  # our objective smooths; the Trainer would smooth the validation loss too
    return args


def _predictions_and_losses(logits: Tensor, labels: Tensor) -> Any:
    """Return the predicted classes and losses, because the logits of a large split would fill the memory."""
    return logits.argmax(dim=-1), torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return the accuracy and the mean loss.

    The Trainer's own mean loss counts the images twice that fill up the last batches of several processes.
    """
    classes, losses = cast(tuple[Any, Any], prediction.predictions)
    result = compute(Accuracy(), np.asarray(classes), np.asarray(prediction.label_ids))
    return {"accuracy": result["accuracy"], "loss": float(np.mean(losses, dtype=np.float64))}
