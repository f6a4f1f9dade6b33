"""`fit`: run or resume the Trainer, and load its best weights."""

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerState

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError, Terminated
from pipeline.images.train_images import PreparedImages
from pipeline.models.classifier import ImageClassifier
from pipeline.performance import batch_size
from pipeline.performance.throughput import Clock
from pipeline.runs.checkpoints import newest_complete_checkpoint
from pipeline.runs.files import atomic_write, read_json
from pipeline.runs.folder import TRAINER_STATE
from pipeline.training import callbacks
from pipeline.training.build import build_trainer
from pipeline.training.trainer import StrictTrainer

logger = logging.getLogger(__name__)


def fit(
    classifier: ImageClassifier,
    images: PreparedImages,
    *,
    folder: Path,
    settings: Settings,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Train, choose the best checkpoint on the validation images, and leave its weights in the classifier.

    Training resumes from the newest complete checkpoint in the folder, if there is one.

    Args:
        classifier: Its network is trained in place.
        images: The training and the validation images.
        folder: Where the checkpoints go.
        settings: All settings of the training.
        clock: Already started if more than this call counts as training time.

    Returns:
        `train_loss`, `train_runtime` and others, of the call that reached the end; `speed`, for `run.json`; and
        `margins`, the `Evidence` about the training labels, if it was collected.

    Raises:
        PipelineError: If the loss is not finite, or the device runs out of memory.
        Terminated: If SIGTERM arrived; a checkpoint was written.
    """
    stop, clock = callbacks.StopOnSignal(), clock or Clock()
    attention = classifier.model.config._attn_implementation
    trainer = build_trainer(classifier, images, folder=folder, settings=settings, clock=clock, extra_callbacks=[stop])
    args = trainer.args
    with batch_size.out_of_memory_explained(
        global_batch=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        per_device=args.train_batch_size,
    ):
        metrics = _train(trainer, folder, stop)
    if stop.stopped:
        raise Terminated(f"saved step {trainer.state.global_step} in {folder}: repeat the command to resume")
    if trainer.state.best_global_step is None:
        raise PipelineError(
            "validation metrics were NaN in every evaluation, so there is no best checkpoint: lower --learning_rate"
        )
    _write_state(trainer, folder)
    classifier.model.set_attn_implementation(attention)
    if clock.total.images:
        speed = clock.total.speed(trainer.components.matmul_rate)
        metrics["speed"] = speed.metrics() | {"data_wait": round(clock.total.data_wait, 4)}
        logger.info("%s, data wait %.1f%%", speed, 100 * clock.total.data_wait)
    if trainer.components.margins and (evidence := trainer.components.margins.evidence()):
        metrics["margins"] = evidence
    # The Trainer's total_flos is wrong for images.
    return {key: value for key, value in metrics.items() if key not in ("total_flos", "elapsed")}


def _train(trainer: StrictTrainer, folder: Path, stop: callbacks.StopOnSignal) -> dict[str, Any]:
    """Train from the start or the newest complete checkpoint; only load the best weights if training was complete."""
    checkpoint = newest_complete_checkpoint(folder)
    distributed.require_same({"the newest checkpoint": checkpoint})
    if checkpoint is not None and (end := _final_state(folder, checkpoint)) is not None:
        trainer.state = TrainerState.load_from_json(str(end))
        logger.info("training was complete at step %d; loading the best checkpoint", trainer.state.global_step)
        if trainer.components.margins:
            trainer.components.margins.restore(checkpoint)
        trainer.load_best_weights()
        return {k: v for row in trainer.state.log_history for k, v in row.items() if k.startswith("train_")}
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint.name)
    with stop:
        metrics: dict[str, Any] = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    return metrics


def _final_state(folder: Path, checkpoint: Path) -> Path | None:
    """Return the state of the last step if the run reached it; the Trainer would train on (transformers 5.23)."""
    if (folder / TRAINER_STATE).exists():  # the checkpoint of the last step may have been deleted since
        return folder / TRAINER_STATE
    state = read_json(checkpoint / TRAINER_STATE)
    return checkpoint / TRAINER_STATE if state["global_step"] >= state["max_steps"] else None


def _write_state(trainer: StrictTrainer, folder: Path) -> None:
    trainer.state.best_model_checkpoint = f"checkpoint-{trainer.state.best_global_step}"  # without a local path
    if distributed.is_main_process():
        with atomic_write(folder / TRAINER_STATE) as temporary:
            trainer.state.save_to_json(str(temporary))
