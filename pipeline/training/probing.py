"""What is done on frozen features: the baseline, the linear head, what more labels bring, the head fitted anew."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import datasets
from transformers import PreTrainedModel

from pipeline import processes, runs
from pipeline.data.labels import read_numbers
from pipeline.data.transforms import ImageProcessor
from pipeline.models import probe as linear
from pipeline.models.features import Features, Precision, extract
from pipeline.training.arguments import FineTuningArguments

logger = logging.getLogger(__name__)


def probe(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    args: FineTuningArguments,
    run: runs.Run,
    takes_head: bool,
) -> dict[str, Any]:
    """Fit a linear probe on `train`, choose its regularisation on `validation`.

    Args:
        model: Its backbone is left as it is.
        processor: Of the model.
        splits: With columns `image`, `label` and `index`.
        args: Precision, batch and workers of the forward passes.
        run: Its timings get `features` and `probe`.
        takes_head: Whether the probe becomes the head of the model; else it is only said what it reaches.

    Returns:
        `probe_eval_accuracy`, `knn_eval_accuracy`, how they were chosen, and `learning_curve`.

    Raises:
        PipelineError: If the network has no linear head, or there is one class only.
    """
    with run.timed("features"):
        features = _extract(model, processor, splits, args)
    with run.timed("probe"):
        # One process computes: all would come to the same, at the cost of each other's cores.
        (found, *_) = processes.exchange(_fit(features, splits, seed=args.seed) if processes.is_main() else None)
    assert found is not None
    head, figures = found
    logger.info(
        "on frozen features, validation accuracy of %d nearest neighbours is %.2f %%, of a linear probe %.2f %%",
        figures["knn_k"],
        100 * figures["knn_eval_accuracy"],
        100 * figures["probe_eval_accuracy"],
    )
    if takes_head:
        linear.install(model, head)
    return figures


def refit_head(
    model: PreTrainedModel, processor: ImageProcessor, splits: datasets.DatasetDict, *, args: FineTuningArguments
) -> dict[str, Any]:
    """Fit the head of a trained network anew, on what it makes of the whole images of `train`, unblended.

    A logistic regression whose regularisation is chosen on `validation`; it becomes the head where it is more accurate
    there. Classifier re-training, arXiv:1910.09217, but each image counts alike, and not each class.

    Args:
        model: Trained; but for the head it is left as it is.
        processor: Of the model.
        splits: With columns `image`, `label` and `index`.
        args: Precision, batch and workers of the forward passes.

    Returns:
        `refit_C`, `refit_temperature`, and accuracy on validation before and after: `trained_head_eval_accuracy`,
        `refit_eval_accuracy`.

    Raises:
        PipelineError: If the network has no linear head, or there is one class only.
    """
    features = _extract(model, processor, splits, args)
    train, valid = features["train"].head, features["validation"].head
    train_y, valid_y = (read_numbers(splits[name]) for name in ("train", "validation"))
    classes = len(splits["train"].features["label"].names)
    (fitted, *_) = processes.exchange(
        linear.calibrate(linear.fit_probe(train, train_y, valid, valid_y, classes), valid, valid_y)
        if processes.is_main()
        else None
    )
    assert fitted is not None
    before, after = linear.head_accuracy(model, valid, valid_y), fitted.chosen["accuracy"]
    logger.info(
        "the head fitted anew: validation accuracy %.2f %%, %.2f %% before; the %s is kept",
        100 * after,
        100 * before,
        "new one" if after > before else "trained one",
    )
    if after > before:
        linear.install(model, fitted)
    return {
        "refit_C": fitted.chosen["C"],
        "refit_temperature": fitted.chosen["temperature"],
        "refit_eval_accuracy": after,
        "trained_head_eval_accuracy": before,
    }


def _extract(
    model: PreTrainedModel, processor: ImageProcessor, splits: datasets.DatasetDict, args: FineTuningArguments
) -> dict[str, Features]:
    return extract(
        model,
        processor,
        {name: splits[name] for name in ("train", "validation")},
        precision=cast(Precision, args.precision),
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        progress=not args.disable_tqdm,
    )


def _fit(
    features: Mapping[str, Features], splits: datasets.DatasetDict, *, seed: int
) -> tuple[linear.Probe, dict[str, Any]]:
    """The probe on what the head reads, and the figures."""
    train, valid = features["train"], features["validation"]
    train_y, valid_y = (read_numbers(splits[name]) for name in ("train", "validation"))
    classes = len(splits["train"].features["label"].names)
    head = linear.fit_probe(train.head, train_y, valid.head, valid_y, classes)
    neighbours, accuracy = linear.knn_accuracy(train.both, train_y, valid.both, valid_y)
    return head, {
        "knn_k": neighbours,
        "knn_eval_accuracy": accuracy,
        "probe_C": head.chosen["C"],
        "probe_eval_accuracy": head.chosen["accuracy"],
        "probe_eval_loss": head.chosen["loss"],
        "learning_curve": linear.learning_curve(head, train.head, train_y, valid.head, valid_y, seed=seed),
    }
