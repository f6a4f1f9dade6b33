"""Classifier x split -> predictions -> figures; order kept, every row once."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from pipeline import distributed
from pipeline.data.labels import read_integers
from pipeline.evaluation import metrics
from pipeline.evaluation.predictions import Predictions, row_ids
from pipeline.images.transforms import EvalTransform, collate
from pipeline.models.classifier import ImageClassifier

PREFIXES = {"validation": "eval"}
"""The Trainer's ecosystem calls figures on validation `eval_*`; other splits carry their own names."""


def score(
    classifier: ImageClassifier,
    split: datasets.Dataset,
    *,
    name: str,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> Predictions:
    """Run the classifier over a split with columns `image`, `label` and `index`, in its order.

    Several processes deal out the batches that one would make, so that each is computed from the same images.

    Raises:
        BadImageError: If an image cannot be read.
    """
    rows = split.with_transform(EvalTransform(classifier.processor))
    batches = [list(range(start, min(start + batch_size, len(rows)))) for start in range(0, len(rows), batch_size)]
    loader = DataLoader(rows, batch_sampler=distributed.shard(batches), num_workers=num_workers, collate_fn=collate)
    bar = tqdm(
        loader,
        desc=f"score {name}",
        unit="batch",
        disable=not (progress and distributed.is_main_process()),
        leave=False,
    )
    with distributed.fail_together():
        share = [classifier.logits(batch["pixel_values"]) for batch in bar]
    logits = np.concatenate(distributed.all_gather_shards(share))
    return Predictions(name, row_ids(split), read_integers(split), logits)


def all_metrics(predictions: Sequence[Predictions], class_names: Sequence[str]) -> dict[str, Any]:
    """`eval_*` for validation and `test_*` for test, as `all_results.json` stores them."""
    return {
        f"{PREFIXES.get(p.split, p.split)}_{key}": value
        for p in predictions
        for key, value in metrics.split_metrics(p.logits, p.labels, class_names).items()
    }
