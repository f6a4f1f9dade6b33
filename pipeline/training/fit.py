"""`fit()`: the Trainer run from the start or from where it stopped, and its best weights loaded."""

import logging
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel, TrainerState

from pipeline import processes, runs
from pipeline.data.transforms import ImageProcessor
from pipeline.errors import PipelineError, Terminated
from pipeline.training import averaging, batch_size, callbacks
from pipeline.training.arguments import Settings
from pipeline.training.build import build_trainer
from pipeline.training.clock import Clock
from pipeline.training.compute import Speed
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
    if settings.adaptation.soup > 1:
        figures["train_soup_checkpoints"] = _soup(trainer, folder)
    trainer.state.best_model_checkpoint = f"checkpoint-{trainer.state.best_global_step}"  # no path of this machine
    if processes.is_main():
        with runs.replacing(folder / runs.TRAINER_STATE) as temporary:
            trainer.state.save_to_json(str(temporary))
    model.set_attn_implementation(attention)
    if clock.whole.rate:
        speed = Speed(clock.whole.rate, clock.whole.flops_rate, trainer.parts.matmul_rate)
        figures["speed"] = speed.figures() | {"data_wait": round(clock.whole.wait, 4)}
        logger.info("%s; %.1f %% of the time waiting", speed, 100 * clock.whole.wait)
    return {k: v for k, v in figures.items() if k not in ("total_flos", "elapsed")}  # the former is wrong for images


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
