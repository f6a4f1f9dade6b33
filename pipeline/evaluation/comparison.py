"""Two models on the same images: McNemar's exact test, and the images on which only one of them is correct."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipeline.errors import PipelineError, list_some
from pipeline.evaluation.outcomes import outcomes_of
from pipeline.evaluation.predictions import Predictions

DISCORDANT = "discordant.csv"
COLUMNS = {"id": "string", "label": "string", "prediction": "string", "against_prediction": "string"}
"""The columns of `discordant.csv`, as Arrow names their types."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of a model with another one on the same images.

    Attributes:
        accuracy: Accuracy of the model.
        against_accuracy: Accuracy of the other model.
        only_model: Number of images on which only the model is correct.
        only_against: Number of images on which only the other model is correct.
        p_value: Two-sided p-value of McNemar's exact test: the probability of a difference of this size, or larger,
            if both models are equally accurate.
    """

    accuracy: float
    against_accuracy: float
    only_model: int
    only_against: int
    p_value: float

    def describe(self, model: str, against: str) -> str:
        """Return the comparison as two lines of text.

        Args:
            model: Name of the model.
            against: Name of the other model.
        """
        points = 100 * (self.accuracy - self.against_accuracy)
        return (
            f"accuracy difference: {points:+.2f} percentage points "
            f"(only {model} is correct: {self.only_model} images; only {against} is correct: {self.only_against})\n"
            f"exact McNemar test: p = {self.p_value:.3g}"
        )


def require_classes(used: Iterable[str], against_names: Sequence[str]) -> None:
    """Check that the other model has all classes of the images; it can have more, in any order.

    Args:
        used: Names of the classes that have images.
        against_names: Names of the classes of the other model.

    Raises:
        PipelineError: If it lacks a class.
    """
    known = set(against_names)
    if lost := [name for name in used if name not in known]:
        raise PipelineError(
            f"the model of --against does not have classes of the images: {list_some(lost)} (its classes: "
            f"{list_some(against_names)}): pass a model that was trained on these classes"
        )


def compare_correct(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Comparison:
    """Return the comparison of two models from whether each of them classifies each image correctly.

    Args:
        ours: Shape (images,), for the model.
        theirs: The same images in the same order, for the other model.
    """
    only_model, only_against = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    discordant = only_model + only_against
    p_value = float(binomtest(only_model, discordant).pvalue) if discordant else 1.0
    return Comparison(float(ours.mean()), float(theirs.mean()), only_model, only_against, p_value)


def compare(
    predictions: Predictions, against: Predictions, class_names: Sequence[str], against_names: Sequence[str]
) -> tuple[Comparison, list[list[str]]]:
    """Return the comparison, and the cells of `discordant.csv` for each image on which only one model is correct.

    Args:
        predictions: Predictions of the model.
        against: Predictions of the other model for the same images in the same order; its labels are not used.
        class_names: Names of the classes of the model.
        against_names: Names of the classes of the other model.

    Raises:
        PipelineError: If logits are NaN or infinite.
    """
    number = {name: index for index, name in enumerate(against_names)}
    labels = np.array([number.get(name, -1) for name in class_names])[predictions.labels]
    ours = outcomes_of(predictions.logits, predictions.labels, name=f"{predictions.split} split")
    theirs = outcomes_of(against.logits, labels, name=f"{against.split} split, model of --against")
    rows = np.flatnonzero(ours.correct != theirs.correct).tolist()
    cells = [
        [
            predictions.ids[i],
            class_names[predictions.labels[i]],
            class_names[ours.predicted[i]],
            against_names[theirs.predicted[i]],
        ]
        for i in rows
    ]
    return compare_correct(ours.correct, theirs.correct), cells
