"""An `ImageClassifier` and a split -> predictions -> metrics."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from pipeline.data.labels import read_integers
from pipeline.evaluation import metrics
from pipeline.evaluation.predictions import Predictions
from pipeline.images.transforms import EvalTransform
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions, run_inference

PREFIXES = {"validation": "eval"}
"""Prefix of the metrics of a split where it is not the name of the split; the Trainer's name for validation is eval."""


def score(classifier: ImageClassifier, split: datasets.Dataset, options: LoaderOptions, *, name: str) -> Predictions:
    """Return the fp32 predictions of a split, in the order of its rows. All ranks must call it.

    Args:
        classifier: The model.
        split: Rows with `image`, `label` and `index`.
        options: How the images are loaded.
        name: Name of the split.

    Raises:
        BadImageError: If an image cannot be read.
    """
    logits = run_inference(
        classifier.model,
        split.with_transform(EvalTransform(classifier.processor)),
        lambda batch: classifier.logits(batch["pixel_values"]),
        options,
        description=f"score {name}",
    )
    return Predictions(name, row_ids(split), read_integers(split), np.concatenate(logits))


def row_ids(split: datasets.Dataset) -> list[str]:
    """Return the path of each row, or its number in the source split if its image has no path."""
    plain = split.with_format("arrow").select_columns(["image", "index"])
    names: list[str] = []
    for batch in plain.iter(batch_size=1000):
        paths = pc.struct_field(batch.column("image"), "path").to_pylist()
        names += [path or str(index) for path, index in zip(paths, batch.column("index").to_pylist(), strict=True)]
    return names


def all_metrics(predictions: Sequence[Predictions], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of all splits as in `all_results.json`: `eval_*` for validation, `test_*` for test."""
    return {
        f"{PREFIXES.get(p.split, p.split)}_{key}": value
        for p in predictions
        for key, value in metrics.split_metrics(p.logits, p.labels, class_names).items()
    }
