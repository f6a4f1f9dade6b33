"""The baseline on frozen features: linear probe, nearest neighbors and learning curve."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import datasets
from transformers import PreTrainedModel

from pipeline import distributed
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.labels import read_integers
from pipeline.images.processor import ImageProcessor
from pipeline.probing import learning_curve, linear, neighbors
from pipeline.probing.features import Features, Precision, extract
from pipeline.runs.folder import RunFolder

logger = logging.getLogger(__name__)


def fit_baseline(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    args: FineTuningArguments,
    run: RunFolder,
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
        features = extract_for(model, processor, splits, args)
    with run.timed("probe"):
        # One process computes: all would come to the same, at the cost of each other's cores.
        (found, *_) = distributed.all_gather(
            _fit(features, splits, seed=args.seed) if distributed.is_main_process() else None
        )
    assert found is not None
    head, figures = found
    logger.info(
        "on frozen features, validation accuracy of %d nearest neighbours is %.2f %%, of a linear probe %.2f %%",
        figures["knn_k"],
        100 * figures["knn_eval_accuracy"],
        100 * figures["probe_eval_accuracy"],
    )
    if takes_head:
        linear.install_head(model, head)
    return figures


def extract_for(
    model: PreTrainedModel, processor: ImageProcessor, splits: datasets.DatasetDict, args: FineTuningArguments
) -> dict[str, Features]:
    """Return the features of `train` and `validation`."""
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
) -> tuple[linear.LinearProbe, dict[str, Any]]:
    """The probe on what the head reads, and the figures."""
    train, valid = features["train"], features["validation"]
    train_y, valid_y = (read_integers(splits[name]) for name in ("train", "validation"))
    classes = len(splits["train"].features["label"].names)
    head = linear.fit_probe(train.head, train_y, valid.head, valid_y, classes)
    neighbours, accuracy = neighbors.knn_accuracy(train.both, train_y, valid.both, valid_y)
    return head, {
        "knn_k": neighbours,
        "knn_eval_accuracy": accuracy,
        "probe_C": head.chosen["C"],
        "probe_eval_accuracy": head.chosen["accuracy"],
        "probe_eval_loss": head.chosen["loss"],
        "learning_curve": learning_curve.learning_curve(head, train.head, train_y, valid.head, valid_y, seed=seed),
    }
