"""An `ImageClassifier` and a split -> predictions -> metrics."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from pipeline.data.labels.read import read_integers
from pipeline.evaluation import metrics
from pipeline.evaluation.predictions import Predictions
from pipeline.images.transforms import EvalTransform
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions, run_inference
from pipeline.runs.files import dataset_folder, path_in_dataset

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
    logits = run_inference(
        classifier.model,
        split.with_transform(EvalTransform(classifier.processor)),
        lambda batch: classifier.logits(batch["pixel_values"]),
        options,
        description=f"score {name}",
    )
    return Predictions(name, row_ids(split, dataset_name), read_integers(split), np.concatenate(logits))


def row_ids(split: datasets.Dataset, dataset_name: str | None) -> list[str]:
    """Return an id for each row that names no folder of this machine, because the ids are published.

    The id is the path of the image relative to the dataset (see `path_in_dataset`), or the row number in the source
    split if the image has no path. A name that occurs twice gets the row number in front.

    Args:
        split: Rows with `image` and `index`.
        dataset_name: The dataset of the split.
    """
    folder = dataset_folder(dataset_name)
    plain = split.with_format("arrow").select_columns(["image", "index"])
    names: list[str] = []
    rows: list[int] = []
    for batch in plain.iter(batch_size=1000):
        rows += batch.column("index").to_pylist()
        paths = pc.struct_field(batch.column("image"), "path").to_pylist()
        names += [path_in_dataset(path, folder) if path else "" for path in paths]
    counts = Counter(names)
    return [
        (name if counts[name] == 1 else f"{row}/{name}") if name else str(row)
        for row, name in zip(rows, names, strict=True)
    ]


def all_metrics(predictions: Sequence[Predictions], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of all splits as in `all_results.json`: `eval_*` for validation, `test_*` for test.

    Raises:
        PipelineError: If logits are NaN or infinite.
    """
    return {
        f"{PREFIXES.get(p.split, p.split)}_{key}": value
        for p in predictions
        for key, value in metrics.split_metrics(p.logits, p.labels, class_names, name=f"{p.split} split").items()
    }
