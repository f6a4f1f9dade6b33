"""`fit`: run or resume the Trainer, and load its best weights."""

import copy
import gc
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError, Terminated
from pipeline.images.train_images import PreparedImages
from pipeline.models.classifier import ImageClassifier
from pipeline.performance import batch_size
from pipeline.performance.throughput import Clock
from pipeline.runs import checkpoints
from pipeline.runs.checkpoints import checkpoint_folder
from pipeline.runs.files import atomic_write
from pipeline.runs.folder import TRAINER_STATE
from pipeline.training.build import build_trainer
from pipeline.training.callbacks import loop
from pipeline.training.callbacks.divergence import Diverged
from pipeline.training.callbacks.margins import FINAL_MARGINS, MARGINS
from pipeline.training.checkpoints import find_start
from pipeline.training.rewind import elapsed_at_rewind, note_rewind, rewinds_in_effect
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

    Training resumes from the newest checkpoint in the folder that is complete and intact.

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
        PipelineError: If the loss is not finite, memory runs out, a data worker dies, or the disk is full.
        Terminated: If a signal arrived; a checkpoint was written.
    """
    stop, clock = loop.StopOnSignal(), clock or Clock()
    if settings.trainer.on_nan == "stop":
        return _fit(classifier, images, folder=folder, settings=settings, clock=clock, stop=stop)
    untrained, generator = copy.deepcopy(classifier), torch.random.get_rng_state()
    while True:
        try:
            return _fit(classifier, images, folder=folder, settings=settings, clock=clock, stop=stop)
        except Diverged as error:
            problem = error.with_traceback(None)  # which would hold the memory of the training
        note_rewind(folder, problem, settings.trainer, elapsed=clock.elapsed())
        if received := max(distributed.all_gather(stop.received)):
            raise Terminated(f"training in {folder} diverged: repeat the command to continue", received)
        clock = Clock()  # of which the training sets the time before
        gc.collect()
        vars(classifier).update(vars(copy.deepcopy(untrained)))
        torch.random.set_rng_state(generator)


def _fit(
    classifier: ImageClassifier,
    images: PreparedImages,
    *,
    folder: Path,
    settings: Settings,
    clock: Clock,
    stop: loop.StopOnSignal,
) -> dict[str, Any]:
    """Do what `fit` does, until the training diverges.

    Raises:
        Diverged: If it does.
    """
    attention = classifier.model.config._attn_implementation
    trainer = build_trainer(classifier, images, folder=folder, settings=settings, clock=clock, extra_callbacks=[stop])
    args = trainer.args
    memory = batch_size.out_of_memory_explained(
        global_batch=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        per_device=args.train_batch_size,
        searched=settings.trainer.finds_batch_size,
    )
    with memory, distributed.time_limit(args.ddp_timeout):
        metrics = _train(trainer, folder, stop)
    received = max(distributed.all_gather(stop.received))
    if stop.stopped:
        raise Terminated(f"saved step {trainer.state.global_step} in {folder}: repeat the command to resume", received)
    if trainer.state.best_global_step is None:
        raise PipelineError(
            "validation metrics were NaN in every evaluation, so there is no best checkpoint: lower --learning_rate"
        )
    evidence = trainer.components.margins.evidence() if trainer.components.margins else None
    distributed.on_main_process(lambda: _write_end(trainer, folder))
    if received:  # in the last step, which needs no other checkpoint
        raise Terminated(f"training in {folder} is complete: repeat the command to score it", received)
    classifier.model.set_attn_implementation(attention)
    if clock.total.images:
        speed = clock.total.speed(trainer.components.matmul_rate)
        metrics["speed"] = speed.metrics() | {
            "data_wait": round(clock.total.data_wait, 4),
            "compiled": trainer.compiled is not None,
        }
        logger.info("%s, data wait %.1f%%", speed, 100 * clock.total.data_wait)
    if evidence is not None:
        metrics["margins"] = evidence
    # The Trainer's total_flos is wrong for images.
    return {key: value for key, value in metrics.items() if key not in ("total_flos", "elapsed")}


def _train(trainer: StrictTrainer, folder: Path, stop: loop.StopOnSignal) -> dict[str, Any]:
    """Train from the start or the newest usable checkpoint; only load the best weights if training was complete."""
    start = find_start(folder, trainer.components.settings.trainer)
    if start.final_state is not None:
        trainer.state = TrainerState.load_from_json(str(start.final_state))
        logger.info("training was complete at step %d; loading the best checkpoint", trainer.state.global_step)
        if margins := trainer.components.margins:
            margins.restore(_find_margins(folder, trainer.state))
        trainer.load_best_weights()
        return {k: v for row in trainer.state.log_history for k, v in row.items() if k.startswith("train_")}
    if start.checkpoint is not None:
        logger.info("resuming from %s", start.checkpoint.name)
    trainer.halvings = rewinds_in_effect(folder, start.step)
    trainer.components.clock.seconds_before_resume = elapsed_at_rewind(folder)
    with stop.listening():
        resumed = str(start.checkpoint) if start.checkpoint else None
        try:
            metrics: dict[str, Any] = trainer.train(resume_from_checkpoint=resumed).metrics
        finally:
            trainer.finish_save()
    return metrics


def _find_margins(folder: Path, state: TrainerState) -> Path:
    """Return the file with the margins until the end of training."""
    final = checkpoint_folder(folder, state.best_global_step or 0) / FINAL_MARGINS
    return final if final.exists() else checkpoint_folder(folder, state.global_step) / MARGINS


def _write_end(trainer: StrictTrainer, folder: Path) -> None:
    """Write what the steps after training need, then remove the checkpoints that nothing needs any more."""
    best = trainer.state.best_global_step or 0
    if trainer.components.margins:
        checkpoints.add_file(checkpoint_folder(folder, best), FINAL_MARGINS, trainer.components.margins.content())
    trainer.state.best_model_checkpoint = f"checkpoint-{best}"  # without a local path
    limit = trainer.components.settings.trainer.save_total_limit
    with atomic_write(folder / TRAINER_STATE) as temporary:
        trainer.state.save_to_json(str(temporary))
    checkpoints.rotate(folder, best=best, keep=0 if limit == 1 else limit)
    checkpoints.clean_up(folder)
