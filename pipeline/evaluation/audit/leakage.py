"""The accuracy on images that are in no earlier split."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.audit.duplicates import Duplicate
from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.scoring import PREFIXES


def without_leaks(predictions: Predictions, duplicates: Sequence[Duplicate]) -> dict[str, Any]:
    """Return the metrics of a split without the images that repeat one of an earlier split.

    Returns:
        `*_leaked`, their number; and if there are any, and others, `*_unleaked_accuracy` with `_low` and `_high` of its
        95% interval, and `*_unleaked_samples`. The prefix is that of the other metrics of the split.
    """
    prefix = PREFIXES.get(predictions.split, predictions.split)
    leaked = {each.row[1] for each in duplicates if each.row[0] == predictions.split and each.leaks}
    found: dict[str, Any] = {f"{prefix}_leaked": len(leaked)}
    kept = np.array([row for row in range(len(predictions.labels)) if row not in leaked], dtype=np.int64)
    if not leaked or not len(kept):
        return found
    correct = int((predictions.logits[kept].argmax(axis=1) == predictions.labels[kept]).sum())
    low, high = wilson_interval(correct, len(kept))
    return found | {
        f"{prefix}_unleaked_samples": len(kept),
        f"{prefix}_unleaked_accuracy": correct / len(kept),
        f"{prefix}_unleaked_accuracy_low": float(low),
        f"{prefix}_unleaked_accuracy_high": float(high),
    }
