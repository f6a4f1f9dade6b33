"""`fit()`: the Trainer set up, run from the start or from where it stopped, and its best weights loaded."""

import copy
import functools
import logging
from collections import Counter
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import (
    BaseImageProcessor,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pipeline import processes, runs
from pipeline.data import cache
from pipeline.data.transforms import EvalTransform, ImageProcessor, Normalize, TrainTransform, collate, input_size
from pipeline.errors import PipelineError, Terminated
from pipeline.evaluation.metrics import Accuracy, compute
from pipeline.models import adaptation, flops, lora
from pipeline.training import averaging, batch_size, callbacks
from pipeline.training.arguments import FineTuningArguments, Settings
from pipeline.training.clock import Clock
from pipeline.training.compute import Speed, matmul_rate
from pipeline.training.machine import best_attention
from pipeline.training.objective import Objective
from pipeline.training.trainer import Parts, StrictTrainer

logger = logging.getLogger(__name__)


def fit(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    folder: Path,
    settings: Settings,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Train on `train`, choose on `validation`; the model ends with its best weights.

    Goes on from the newest complete checkpoint in the folder, if there is one.

    Args:
        model: Trained in place.
        processor: Of the model; the transforms follow it.
        splits: With columns `image`, `label` and `index`.
        folder: Where the checkpoints go.
        settings: All that shapes the training.
        clock: Started when the training began, where more than this call belongs to it.

    Returns:
        `train_loss`, `train_runtime` and its siblings, of the call that reached the end; and its `speed`.

    Raises:
        PipelineError: If the loss is not a number any more.
        Terminated: If SIGTERM came; a checkpoint was written.
    """
    stop, clock = callbacks.StopOnSignal(), clock or Clock()
    attention = model.config._attn_implementation
    network = _prepare(model, processor, settings)
    trainer = _make_trainer(network, processor, splits, folder=folder, settings=settings, stop=stop, clock=clock)
    args = trainer.args
    with batch_size.out_of_memory_explained(
        global_batch=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        per_device=args.train_batch_size,
    ):
        figures = _train(trainer, folder, stop)
    if stop.stopped:
        raise Terminated(f"saved step {trainer.state.global_step} in {folder}: repeat the command to go on")
    if trainer.state.best_global_step is None:
        raise PipelineError("no validation score was a number, so there is no best model: lower --learning_rate")
    if settings.adaptation.soup > 1:
        figures["train_soup_checkpoints"] = _soup(trainer, folder)
    trainer.state.best_model_checkpoint = f"checkpoint-{trainer.state.best_global_step}"  # no path of this machine
    if processes.is_main():
        with runs.replacing(folder / runs.TRAINER_STATE) as temporary:
            trainer.state.save_to_json(str(temporary))
    model.set_attn_implementation(attention)
    if clock.whole.rate:
        figures["speed"] = trainer.parts.speed(clock.whole.rate).figures() | {"data_wait": round(clock.whole.wait, 4)}
        logger.info("%s; %.1f %% of the time waiting", trainer.parts.speed(clock.whole.rate), 100 * clock.whole.wait)
    return {k: v for k, v in figures.items() if k not in ("total_flos", "elapsed")}  # the former is wrong for images


def _prepare(model: PreTrainedModel, processor: ImageProcessor, settings: Settings) -> Any:
    """The network with what is not trained frozen, and with adapters where the strategy is LoRA."""
    freeze_unreached(model, input_size(processor))
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(best_attention(settings.trainer.device))
    chosen = settings.adaptation
    if chosen.freeze_blocks:
        adaptation.freeze_blocks(model, chosen.freeze_blocks)
    if chosen.strategy != "lora":
        return model
    return lora.add_lora(model, rank=chosen.lora_rank, alpha=chosen.lora_alpha, dropout=chosen.lora_dropout)


def _make_trainer(
    network: Any,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    folder: Path,
    settings: Settings,
    stop: callbacks.StopOnSignal,
    clock: Clock,
) -> StrictTrainer:
    args, size = settings.trainer, input_size(processor)
    rate = matmul_rate(args.device, args.precision) * args.world_size
    speed = functools.partial(Speed, flops_per_image=flops.training_flops(network, size), matmul_rate=rate)
    base = runs.scrub(str(network.config._name_or_path))  # no path of this machine in an adapter
    training, scoring = TrainTransform(processor, settings.augmentation, seed=args.seed), EvalTransform(processor)
    limit, epochs = settings.augmentation.image_cache_gb, args.num_train_epochs
    train = splits["train"]
    if training.augment is not None:  # else the network sees what evaluation sees, to the last bit
        train = cache.decode_once(train, training, limit_gb=limit, epochs=epochs, split_name="train")
    beside: list[TrainerCallback] = [
        callbacks.TellEpoch(training.epoch),
        callbacks.StopWhenDiverged(),
        callbacks.Progress(clock),
        stop,
    ]
    if args.early_stopping_patience is not None:
        beside.append(EarlyStoppingCallback(early_stopping_patience=args.early_stopping_patience))
    if settings.adaptation.max_hours is not None:
        beside.append(callbacks.StopAfter(settings.adaptation.max_hours, clock))
    names = splits["train"].features["label"].names
    counts = Counter(splits["train"]["label"])
    objective = Objective(
        settings.augmentation,
        class_counts=[counts[number] for number in range(len(names))],
        label_smoothing=args.label_smoothing_factor,
    )
    trainer = StrictTrainer(
        Parts(settings, objective, Normalize(processor), clock, training.epoch, speed, base),
        model=network,
        args=_for_trainer(settings, network, size, folder),
        data_collator=collate,
        train_dataset=train.with_transform(training),
        eval_dataset=splits["validation"].with_transform(scoring),
        processing_class=cast(BaseImageProcessor, processor),
        compute_metrics=_figures,
        preprocess_logits_for_metrics=_numbers_and_losses,
        callbacks=beside,
    )
    trainer.remove_callback(PrinterCallback)  # our own lines and bar say it
    trainer.remove_callback(ProgressCallback)
    return trainer


def freeze_unreached(model: PreTrainedModel, size: tuple[int, int]) -> None:
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


def _train(trainer: StrictTrainer, folder: Path, stop: callbacks.StopOnSignal) -> dict[str, Any]:
    """Train from the start or from the newest complete checkpoint; load the best weights of a complete training."""
    checkpoint = runs.newest_complete_checkpoint(folder)
    processes.exchange(None, same={"the newest checkpoint in a folder that all machines share": checkpoint})
    if checkpoint is not None and (end := _end_of_training(folder, checkpoint)) is not None:
        trainer.state = TrainerState.load_from_json(str(end))
        logger.info("training was complete at step %d: loading its best weights", trainer.state.global_step)
        trainer._load_best_model()
        return {k: v for row in trainer.state.log_history for k, v in row.items() if k.startswith("train_")}
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint.name)
    with stop:
        figures: dict[str, Any] = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    return figures


def _for_trainer(settings: Settings, network: Any, size: tuple[int, int], folder: Path) -> FineTuningArguments:
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
    if mine.save_total_limit is not None:
        mine.save_total_limit = max(mine.save_total_limit, settings.adaptation.soup)
    return mine


def _end_of_training(folder: Path, checkpoint: Path) -> Path | None:
    """The state of the run's last step, if it was reached: the Trainer would train on (transformers 5.23)."""
    if (folder / runs.TRAINER_STATE).exists():  # the checkpoint of the last step need not be there any more
        return folder / runs.TRAINER_STATE
    state = runs.read_json(checkpoint / runs.TRAINER_STATE)
    return checkpoint / runs.TRAINER_STATE if state["global_step"] >= state["max_steps"] else None


def _soup(trainer: StrictTrainer, folder: Path) -> int:
    """Average what is left of the run's checkpoints into its best weights, as long as validation improves."""
    found = {row["step"]: _score(row) for row in trainer.state.log_history if "eval_accuracy" in row}
    steps = sorted(found, key=lambda step: (step == trainer.state.best_global_step, found[step], -step), reverse=True)
    ranked = [path for step in steps if (path := folder / f"checkpoint-{step}").is_dir()]
    loader = trainer.get_eval_dataloader()
    return averaging.greedy_soup(
        trainer.model,
        ranked[: trainer.parts.settings.adaptation.soup],
        lambda: _score(trainer.evaluation_loop(loader, description="soup").metrics or {}),
    )


def _score(figures: dict[str, float]) -> averaging.Score:
    return figures["eval_accuracy"], -figures["eval_loss"]


def _numbers_and_losses(logits: Tensor, labels: Tensor) -> Any:
    """Only these are kept while the Trainer evaluates: the logits of a large split would fill the memory."""
    return logits.argmax(dim=-1), torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def _figures(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, and the mean loss of an image.

    The Trainer's own mean counts images again that fill up the batches of several processes.
    """
    numbers, losses = cast(tuple[Any, Any], prediction.predictions)
    result = compute(Accuracy(), np.asarray(numbers), np.asarray(prediction.label_ids))
    return {"accuracy": result["accuracy"], "loss": float(np.mean(losses, dtype=np.float64))}
