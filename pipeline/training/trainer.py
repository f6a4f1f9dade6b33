"""`fit()`: the only code that touches `transformers.Trainer`."""

import copy
import logging
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
    Trainer,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pipeline import processes, runs
from pipeline.data.transforms import EvalTransform, ImageProcessor, TrainTransform, collate, input_size
from pipeline.errors import PipelineError, Terminated
from pipeline.evaluation.metrics import Accuracy, compute
from pipeline.models.checkpoint import load_strictly
from pipeline.training import callbacks
from pipeline.training.arguments import FineTuningArguments

logger = logging.getLogger(__name__)


class StrictTrainer(Trainer):
    """The Trainer, except that weights it reloads are all there, on resume and for the best model."""

    model: PreTrainedModel

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_strictly(model or self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        # From the step and not from the path in the state, which is stale once the run folder was moved.
        best = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
        load_strictly(self.accelerator.unwrap_model(self.model), best)


def fit(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    folder: Path,
    args: FineTuningArguments,
) -> dict[str, float]:
    """Train on `train`, choose on `validation`; the model ends with its best weights.

    Goes on from the newest complete checkpoint in the folder, if there is one.

    Args:
        model: Trained in place.
        processor: Of the model; the transforms follow it.
        splits: With columns `image`, `label` and `index`.
        folder: Where the checkpoints go.
        args: The training arguments.

    Returns:
        `train_loss`, `train_runtime` and its siblings, of the call that reached the end.

    Raises:
        PipelineError: If the loss is not a number any more.
        Terminated: If SIGTERM came; a checkpoint was written.
    """
    stop = callbacks.StopOnSignal()
    trainer = _make_trainer(model, processor, splits, folder=folder, args=args, stop=stop)
    figures = _train(trainer, folder, stop)
    if stop.stopped:
        raise Terminated(f"saved step {trainer.state.global_step} in {folder}: repeat the command to go on")
    if trainer.state.best_global_step is None:
        raise PipelineError("no validation score was a number, so there is no best model: lower --learning_rate")
    trainer.state.best_model_checkpoint = f"checkpoint-{trainer.state.best_global_step}"  # no path of this machine
    if processes.is_main():
        with runs.replacing(folder / runs.TRAINER_STATE) as temporary:
            trainer.state.save_to_json(str(temporary))
    return {k: v for k, v in figures.items() if k != "total_flos"}  # it is wrong for images


def _make_trainer(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    folder: Path,
    args: FineTuningArguments,
    stop: callbacks.StopOnSignal,
) -> StrictTrainer:
    freeze_unreached(model, input_size(processor))
    training = TrainTransform(processor, args.make_augmentation(), seed=args.seed)
    beside: list[TrainerCallback] = [
        callbacks.TellEpoch(training.epoch),
        callbacks.StopWhenDiverged(),
        callbacks.Progress(),
        stop,
    ]
    if args.early_stopping_patience is not None:
        beside.append(EarlyStoppingCallback(early_stopping_patience=args.early_stopping_patience))
    trainer = StrictTrainer(
        model=model,
        args=_for_trainer(args, folder),
        data_collator=collate,
        train_dataset=splits["train"].with_transform(training),
        eval_dataset=splits["validation"].with_transform(EvalTransform(processor)),
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


def _train(trainer: StrictTrainer, folder: Path, stop: callbacks.StopOnSignal) -> dict[str, float]:
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
        figures: dict[str, float] = trainer.train(
            resume_from_checkpoint=str(checkpoint) if checkpoint else None
        ).metrics
    return figures


def _for_trainer(args: FineTuningArguments, folder: Path) -> FineTuningArguments:
    """The arguments as the Trainer gets them: it saves checkpoints into the folder, and pushes nothing."""
    mine = copy.copy(args)
    mine.output_dir, mine.push_to_hub = str(folder), False
    return mine


def _end_of_training(folder: Path, checkpoint: Path) -> Path | None:
    """The state of the run's last step, if it was reached: the Trainer would train on (transformers 5.23)."""
    if (folder / runs.TRAINER_STATE).exists():  # the checkpoint of the last step need not be there any more
        return folder / runs.TRAINER_STATE
    state = runs.read_json(checkpoint / runs.TRAINER_STATE)
    return checkpoint / runs.TRAINER_STATE if state["global_step"] >= state["max_steps"] else None


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
