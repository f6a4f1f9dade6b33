"""What the stored uncertainty says about each image of a batch, as columns of the table of predictions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.models.uncertainty import Uncertainty
from pipeline.runs.table_file import LIST


class Verdicts(NamedTuple):
    """What the model says about the images of a batch. A part that the model does not store is None.

    Attributes:
        probabilities: Calibrated probabilities of the ranked classes, (batch, k).
        sets: The classes of each APS set, most likely first.
        abstain: Whether the confidence of each image is too low to answer.
        unknown: Whether each image is unlike the training images.
    """

    probabilities: NDArray[np.float64] | None = None
    sets: list[list[int]] | None = None
    abstain: list[bool] | None = None
    unknown: list[bool] | None = None

    def values(self, image: int, rank: int, class_names: Sequence[str]) -> list[Any]:
        """Return the values of `verdict_columns` for an image of the batch and a rank from 0."""
        values: list[Any] = []
        if self.probabilities is not None:
            values.append(float(self.probabilities[image, rank]))
        if self.sets is not None:
            values.append([class_names[number] for number in self.sets[image]])
        return values + [column[image] for column in (self.abstain, self.unknown) if column is not None]


def verdict_columns(uncertainty: Uncertainty | None) -> dict[str, str]:
    """Return the columns that the model adds to a table of predictions, and their types (see `growing_table`).

    They are `calibrated_probability`, `prediction_set` (names of the classes of the APS set, most likely first; in a
    CSV file a JSON list), `abstain` and `unknown`, without those for which the model stores nothing.
    """
    if uncertainty is None:
        return {}
    columns = {
        "calibrated_probability": ("double", uncertainty.temperature),
        "prediction_set": (LIST, uncertainty.aps_threshold),
        "abstain": ("bool", uncertainty.abstain_threshold),
        "unknown": ("bool", uncertainty.ood),
    }
    return {name: arrow_type for name, (arrow_type, stored) in columns.items() if stored is not None}


def judge(
    uncertainty: Uncertainty | None,
    logits: NDArray[np.float32],
    features: NDArray[np.float32] | None,
    classes: NDArray[np.int64],
) -> Verdicts:
    """Return the verdicts on a batch of images.

    Args:
        uncertainty: What the model stores.
        logits: Shape (batch, classes).
        features: What the head reads, shape (batch, width); None if the model stores no out-of-distribution score.
        classes: The ranked classes, shape (batch, k).
    """
    if uncertainty is None:
        return Verdicts()
    probabilities = uncertainty.probabilities(logits)
    sets = abstain = unknown = None
    if uncertainty.aps_threshold is not None:
        order = np.argsort(-probabilities, axis=1, kind="stable")
        members = np.take_along_axis(uncertainty.aps_sets(probabilities), order, axis=1)
        sets = [ranked[inside].tolist() for ranked, inside in zip(order, members, strict=True)]
    if uncertainty.abstain_threshold is not None:
        abstain = (probabilities.max(axis=1) < uncertainty.abstain_threshold).tolist()
    if uncertainty.ood is not None and features is not None:
        unknown = (uncertainty.ood.scores(features) > uncertainty.ood.threshold).tolist()
    chosen = np.take_along_axis(probabilities, classes, axis=1) if uncertainty.temperature is not None else None
    return Verdicts(chosen, sets, abstain, unknown)
