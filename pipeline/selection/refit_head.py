"""Refit the head: logistic regression on the features of the trained network, calibrated on validation."""

import logging
from typing import Any

import datasets
from transformers import PreTrainedModel

from pipeline import distributed
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.labels import read_integers
from pipeline.images.processor import ImageProcessor
from pipeline.probing import linear
from pipeline.probing.baseline import extract_for

logger = logging.getLogger(__name__)


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
    features = extract_for(model, processor, splits, args)
    train, valid = features["train"].head, features["validation"].head
    train_y, valid_y = (read_integers(splits[name]) for name in ("train", "validation"))
    classes = len(splits["train"].features["label"].names)
    (fitted, *_) = distributed.all_gather(
        linear.calibrate(linear.fit_probe(train, train_y, valid, valid_y, classes), valid, valid_y)
        if distributed.is_main_process()
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
        linear.install_head(model, fitted)
    return {
        "refit_C": fitted.chosen["C"],
        "refit_temperature": fitted.chosen["temperature"],
        "refit_eval_accuracy": after,
        "trained_head_eval_accuracy": before,
    }
