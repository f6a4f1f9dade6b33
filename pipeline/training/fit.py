"""`fit()`: the Trainer run from the start or from where it stopped, and its best weights loaded."""

import logging
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel, TrainerState

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError, Terminated
from pipeline.images.processor import ImageProcessor
from pipeline.performance import batch_size
from pipeline.performance.throughput import Clock, Speed
from pipeline.runs.checkpoints import newest_complete_checkpoint
from pipeline.runs.files import atomic_write, read_json
from pipeline.runs.folder import TRAINER_STATE
from pipeline.training import callbacks
from pipeline.training.build import build_trainer
from pipeline.training.trainer import StrictTrainer

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
    trainer = build_trainer(model, processor, splits, folder=folder, settings=settings, clock=clock, beside=[stop])
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
    trainer.state.best_model_checkpoint = f"checkpoint-{trainer.state.best_global_step}"  # no path of this machine
    if distributed.is_main_process():
        with atomic_write(folder / TRAINER_STATE) as temporary:
            trainer.state.save_to_json(str(temporary))
    model.set_attn_implementation(attention)
    if clock.whole.rate:
        speed = Speed(clock.whole.rate, clock.whole.flops_rate, trainer.parts.matmul_rate)
        figures["speed"] = speed.figures() | {"data_wait": round(clock.whole.wait, 4)}
        logger.info("%s; %.1f %% of the time waiting", speed, 100 * clock.whole.wait)
    return {k: v for k, v in figures.items() if k not in ("total_flos", "elapsed")}  # the former is wrong for images


def _train(trainer: StrictTrainer, folder: Path, stop: callbacks.StopOnSignal) -> dict[str, Any]:
    """Train from the start or from the newest complete checkpoint; load the best weights of a complete training."""
    checkpoint = newest_complete_checkpoint(folder)
    distributed.all_gather(None, same={"the newest checkpoint in a folder that all machines share": checkpoint})
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


def _end_of_training(folder: Path, checkpoint: Path) -> Path | None:
    """The state of the run's last step, if it was reached: the Trainer would train on (transformers 5.23)."""
    if (folder / TRAINER_STATE).exists():  # the checkpoint of the last step need not be there any more
        return folder / TRAINER_STATE
    state = read_json(checkpoint / TRAINER_STATE)
    return checkpoint / TRAINER_STATE if state["global_step"] >= state["max_steps"] else None
