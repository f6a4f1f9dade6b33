"""An `ImageClassifier` and a split -> predictions -> metrics."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels.read import read_integers
from pipeline.data.row_ids import row_ids
from pipeline.evaluation import metrics
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.slices.find import find_slices
from pipeline.evaluation.slices.measure import MeasuringTransform, collate_measured, columns_of
from pipeline.evaluation.slices.properties import ImageProperties
from pipeline.evaluation.uncertainty.metrics import uncertainty_metrics
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions, run_inference
from pipeline.models.uncertainty import Uncertainty

Array = NDArray[np.float32]

PREFIXES = {"validation": "eval"}
"""Prefix of the metrics of a split where it is not the name of the split; the Trainer's name for validation is eval."""


def score(
    classifier: ImageClassifier,
    split: datasets.Dataset,
    options: LoaderOptions,
    *,
    name: str,
    dataset_name: str | None = None,
) -> Predictions:
    """Return the fp32 predictions of a split, in the order of its rows. All ranks must call it.

    Args:
        classifier: The model.
        split: Rows with `image`, `label` and `index`.
        options: How the images are loaded.
        name: Name of the split.
        dataset_name: The dataset of the split, for the ids of the rows, see `row_ids`.

    Raises:
        BadImageError: If an image cannot be read.
    """
    ood = classifier.uncertainty.ood if classifier.uncertainty is not None else None

    def forward(batch: dict[str, Any]) -> tuple[Array, ...]:
        if ood is None:
            return (classifier.logits(batch["pixel_values"]),)
        logits, features = classifier.logits_and_features(batch["pixel_values"])
        return logits, ood.scores(features)

    (logits, *scores), properties = _columns(classifier, split, forward, options, name=name)
    ood_scores = scores[0] if scores else None
    return Predictions(name, row_ids(split, dataset_name), read_integers(split), logits, ood_scores, properties)


def score_with_features(
    classifier: ImageClassifier,
    split: datasets.Dataset,
    options: LoaderOptions,
    *,
    name: str,
    dataset_name: str | None = None,
    features: Array | None = None,
) -> tuple[Predictions, Array]:
    """Return what `score` returns, and what the head reads (images, width), from the same forward pass.

    Arguments and errors are those of `score`. The head must be linear. `features` is what the head reads, if the same
    network has computed it in fp32 before; then only the head computes.
    """

    def forward(batch: dict[str, Any]) -> tuple[Array, ...]:
        return () if features is not None else classifier.logits_and_features(batch["pixel_values"])

    computed, properties = _columns(classifier, split, forward, options, name=name)
    logits, features = computed if features is None else (classifier.head_logits(features), features)
    ids, labels = row_ids(split, dataset_name), read_integers(split)
    return Predictions(name, ids, labels, logits, properties=properties), features


def _columns(
    classifier: ImageClassifier,
    split: datasets.Dataset,
    forward: Callable[[dict[str, Any]], tuple[Array, ...]],
    options: LoaderOptions,
    *,
    name: str,
) -> tuple[list[Array], ImageProperties]:
    """Return the arrays that `forward` returns for each batch, joined over the batches, and the images' properties."""

    def measure(batch: dict[str, Any]) -> tuple[tuple[Array, ...], tuple[NDArray[Any], ...]]:
        return forward(batch), columns_of(batch)

    rows = split.with_transform(MeasuringTransform(classifier.processor))
    batches = run_inference(
        classifier.model, rows, measure, options, description=f"score {name}", collate_fn=collate_measured
    )
    computed, measured = (
        [np.concatenate(column) for column in zip(*parts, strict=True)] for parts in zip(*batches, strict=True)
    )
    return computed, ImageProperties(*measured)


def all_metrics(
    predictions: Sequence[Predictions], class_names: Sequence[str], uncertainty: Uncertainty | None = None
) -> dict[str, Any]:
    """Return the metrics of all splits as in `all_results.json`: `eval_*` for validation, `test_*` for test.

    They are those of `metrics.split_metrics`, and `slices`: the fields of `slices.find.Slice` of each slice.

    Args:
        predictions: The splits.
        class_names: Names of the classes, in the order of the logits.
        uncertainty: What the model stores of its confidence; it adds the metrics of `uncertainty_metrics`.

    Raises:
        PipelineError: If logits are NaN or infinite.
    """
    results: dict[str, Any] = {}
    for p in predictions:
        found = metrics.split_metrics(p.logits, p.labels, class_names, name=f"{p.split} split")
        found["slices"] = [dataclasses.asdict(each) for each in find_slices(p)]
        if uncertainty is not None:
            found |= uncertainty_metrics(p, uncertainty)
        results |= {f"{PREFIXES.get(p.split, p.split)}_{key}": value for key, value in found.items()}
    return results
