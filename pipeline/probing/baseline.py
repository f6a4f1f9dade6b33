"""The baseline on frozen features: linear probe, nearest neighbors and learning curve."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import datasets

from pipeline import distributed
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.labels.read import read_integers
from pipeline.evaluation.audit.labels import Evidence
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.performance.device import Precision
from pipeline.probing.features import Features, extract
from pipeline.probing.learning_curve import learning_curve
from pipeline.probing.linear import Labels, LinearProbe, fit_probe
from pipeline.probing.neighbors import knn_accuracy
from pipeline.probing.out_of_fold import label_evidence
from pipeline.runs.folder import RunFolder

logger = logging.getLogger(__name__)


def fit_baseline(
    classifier: ImageClassifier,
    splits: datasets.DatasetDict,
    *,
    args: FineTuningArguments,
    run: RunFolder,
    precision: Precision | None = None,
) -> tuple[LinearProbe, dict[str, Any], Evidence | None]:
    """Fit a linear probe on `train`, choose its regularization on `validation`, and measure what it can reach.

    Args:
        classifier: The network, which is not changed.
        splits: Rows with `image`, `label` and `index`.
        args: Precision, batch size and data workers of the forward passes; the random seed of the learning curve.
        run: Its record gets the seconds of `features`, `probe` and `out_of_fold`.
        precision: Another precision for the forward passes.

    Returns:
        The probe; `probe_eval_accuracy`, `probe_eval_loss`, `probe_C`, `knn_eval_accuracy`, `knn_k` and
        `learning_curve`; and on the main process what the features say about the training labels, if it is wanted.

    Raises:
        PipelineError: If the head is not a single linear layer, or all training images are of one class.
    """
    with run.timed("features"):
        features = training_features(classifier, splits, args, precision=precision)
    with run.timed("probe"):
        # Every rank would compute the same, and slow the others of its machine down.
        fitted = _fit(features, splits, seed=args.seed) if distributed.is_main_process() else None
        probe, metrics = distributed.broadcast(fitted)
    evidence = None
    if args.audit == "yes" and distributed.is_main_process():
        with run.timed("out_of_fold"):
            train_y, _, num_classes = training_labels(splits)
            evidence = label_evidence(features["train"].head, train_y, num_classes, seed=args.seed)
    logger.info(
        "frozen features: validation accuracy %.2f%% with %d nearest neighbors, %.2f%% with a linear probe",
        100 * metrics["knn_eval_accuracy"],
        metrics["knn_k"],
        100 * metrics["probe_eval_accuracy"],
    )
    return probe, metrics, evidence


def training_features(
    classifier: ImageClassifier,
    splits: datasets.DatasetDict,
    args: FineTuningArguments,
    *,
    precision: Precision | None = None,
) -> dict[str, Features]:
    """Return the features of `train` and `validation`, in the precision of the training or in another one."""
    return extract(
        classifier,
        {name: splits[name] for name in ("train", "validation")},
        LoaderOptions.of(args),
        precision=precision or cast(Precision, args.precision),
    )


def fit_training_probe(features: Mapping[str, Features], splits: datasets.DatasetDict) -> LinearProbe:
    """Return a linear probe of `train`, its regularization chosen on `validation`. All ranks must call it.

    Raises:
        PipelineError: If all training images are of one class.
    """
    train_y, valid_y, num_classes = training_labels(splits)
    fitted = None
    if distributed.is_main_process():  # every rank would compute the same, and slow the others of its machine down
        fitted = fit_probe(features["train"].head, train_y, features["validation"].head, valid_y, num_classes)
    return distributed.broadcast(fitted)


def training_neighbors(features: Mapping[str, Features], splits: datasets.DatasetDict) -> tuple[int, float]:
    """Return the best number of nearest neighbors and its validation accuracy. All ranks must call it."""
    found = _neighbors(features, splits) if distributed.is_main_process() else None
    return distributed.broadcast(found)


def training_labels(splits: datasets.DatasetDict) -> tuple[Labels, Labels, int]:
    """Return the labels of `train`, those of `validation`, and the number of classes."""
    names = splits["train"].features["label"].names
    return read_integers(splits["train"]), read_integers(splits["validation"]), len(names)


def _fit(
    features: Mapping[str, Features], splits: datasets.DatasetDict, *, seed: int
) -> tuple[LinearProbe, dict[str, Any]]:
    """Return the probe on what the head reads, and the metrics."""
    train, validation = features["train"], features["validation"]
    train_y, valid_y, num_classes = training_labels(splits)
    probe = fit_probe(train.head, train_y, validation.head, valid_y, num_classes)
    neighbors, accuracy = _neighbors(features, splits)
    return probe, {
        "knn_k": neighbors,
        "knn_eval_accuracy": accuracy,
        "probe_C": probe.chosen["C"],
        "probe_eval_accuracy": probe.chosen["accuracy"],
        "probe_eval_loss": probe.chosen["loss"],
        "learning_curve": learning_curve(probe, train.head, train_y, validation.head, valid_y, seed=seed),
    }


def _neighbors(features: Mapping[str, Features], splits: datasets.DatasetDict) -> tuple[int, float]:
    train_y, valid_y, _ = training_labels(splits)
    train, validation = features["train"], features["validation"]
    return knn_accuracy(train.class_token_and_patches, train_y, validation.class_token_and_patches, valid_y)
