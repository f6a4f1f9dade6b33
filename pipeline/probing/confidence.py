"""What `train` stores of the confidence of the saved model: validation predictions and features of train -> files."""

import dataclasses
import logging
import time
from typing import cast

import datasets
import torch

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.data.splits import limit_rows
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.evaluation.uncertainty.fit import fit_uncertainty
from pipeline.evaluation.uncertainty.out_of_distribution import LabeledFeatures, require_images
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.performance.device import Precision
from pipeline.probing.features import extract, read_cached
from pipeline.runs.folder import RunFolder

logger = logging.getLogger(__name__)

MAX_TRAIN_IMAGES, MIN_PER_CLASS = 10_000, 10
"""Means and covariance use at most this many training images, or this many per class if that is more."""


def precision_of_probe(splits: datasets.DatasetDict, settings: Settings) -> Precision:
    """Return the precision for the features of a probe that is saved: one pass over all images instead of two.

    `score_validation` needs fp32. With many training images, it needs a sample of them, and the faster precision pays.
    """
    limit = _most_images(len(splits["train"].features["label"].names))
    if settings.trainer.uncertainty == "yes" and len(splits["train"]) <= limit:
        return "fp32"
    return cast(Precision, settings.trainer.precision)


def score_validation(
    classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings, *, run: RunFolder
) -> Predictions:
    """Score validation, and store the uncertainty that is fitted on it in the run folder and in the classifier.

    The features of validation come from the forward passes of the scoring, or from the cache, where `--strategy head`
    and `--refit_head` leave them; then the passes are not repeated. Those of train need one pass, or are in the cache
    too. All ranks must call it.

    Raises:
        BadImageError: If an image cannot be read.
        PipelineError: If logits are NaN or infinite, or a file cannot be written.
    """
    options, dataset = LoaderOptions.of(settings.trainer), settings.data.dataset_name
    features, classifier.uncertainty = None, None
    with run.timed("score"):
        if _can_store_features(classifier, splits):
            known = read_cached(classifier, splits["validation"], name="validation", precision="fp32")
            validation, array = scoring.score_with_features(
                classifier,
                splits["validation"],
                options,
                name="validation",
                dataset_name=dataset,
                features=known.head if known else None,
            )
            features = LabeledFeatures(array, validation.labels)
        else:
            validation = scoring.score(
                classifier, splits["validation"], options, name="validation", dataset_name=dataset
            )
    start = time.perf_counter()
    with run.timed("uncertainty"):
        both = (_train_features(classifier, splits["train"], options), features) if features else None
        with distributed.fail_together():
            fitted = (
                fit_uncertainty(
                    validation,
                    both,
                    coverage=settings.trainer.coverage,
                    abstain_precision=settings.trainer.abstain_precision,
                )
                if distributed.is_main_process()
                else None
            )
        fitted = distributed.broadcast(fitted)
        assert fitted is not None
        distributed.on_main_process(lambda: fitted.write(run.folder))
    logger.info(
        "fitted the confidence on %d validation images in %.1f s", len(validation.labels), time.perf_counter() - start
    )
    classifier.uncertainty = fitted or None
    if features is None or fitted.ood is None:
        return validation
    return dataclasses.replace(validation, ood_scores=fitted.ood.scores(features.features))


def _can_store_features(classifier: ImageClassifier, splits: datasets.DatasetDict) -> bool:
    """Return whether there are features for an out-of-distribution score; a log line says why not."""
    if not isinstance(splits["train"], datasets.Dataset):
        logger.info("no out-of-distribution score is stored: --streaming does not keep the training images")
        return False
    try:
        require_images(len(splits["validation"]))
        classifier.logits_and_features(torch.zeros(1, 3, *classifier.input_size))
    except NotFitted as reason:
        logger.info("no out-of-distribution score is stored: %s", reason)
        return False
    except PipelineError as error:
        logger.info("no out-of-distribution score is stored: %s", str(error).partition(": ")[2].partition(";")[0])
        return False
    return True


def _train_features(classifier: ImageClassifier, train: datasets.Dataset, options: LoaderOptions) -> LabeledFeatures:
    """Return what the head reads of the training images, or of a sample of them that is balanced across the classes."""
    if len(train) > (limit := _most_images(len(classifier.class_names))):
        logger.info("the out-of-distribution score uses %d of %d training images", limit, len(train))
        train = train.select(limit_rows(read_integers(train), limit=limit, seed=0))
    features = extract(classifier, {"train": train}, options, precision="fp32", keep=False)
    return LabeledFeatures(features["train"].head, read_integers(train))


def _most_images(classes: int) -> int:
    return max(MAX_TRAIN_IMAGES, MIN_PER_CLASS * classes)
