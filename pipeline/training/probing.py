"""What is done on frozen features: the baseline, the linear head, and what more labels would bring."""

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
        features = extract(
            model,
            processor,
            {name: splits[name] for name in ("train", "validation")},
            precision=cast(Precision, args.precision),
            batch_size=args.per_device_eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
        )
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
