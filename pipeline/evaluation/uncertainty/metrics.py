"""What the stored uncertainty is worth on a split: calibration, coverage of the sets, precision of the answers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.confidence import calibration_error, wilson_interval
from pipeline.evaluation.outcomes import outcomes_of
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.conformal import chunks
from pipeline.models.uncertainty import Uncertainty

METHODS = ("lac", "aps")


def set_sizes(
    uncertainty: Uncertainty, predictions: Predictions, method: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the size of the prediction set of each image, and whether it contains the true class.

    Args:
        uncertainty: Has the threshold of the method.
        predictions: The split.
        method: One of `METHODS`.
    """
    sizes, covered = [], []
    for rows, probabilities in chunks(uncertainty, predictions.logits):
        sets = (uncertainty.lac_sets if method == "lac" else uncertainty.aps_sets)(probabilities)
        sizes.append(sets.sum(axis=1))
        covered.append(sets[np.arange(len(sets)), predictions.labels[rows]])
    return np.concatenate(sizes), np.concatenate(covered)


def uncertainty_metrics(predictions: Predictions, uncertainty: Uncertainty) -> dict[str, Any]:
    """Return the metrics of the parts that are stored. Fractions of images have `_low` and `_high` of a 95% interval.

    Args:
        predictions: A split.
        uncertainty: What is stored with the model.

    Returns:
        With a temperature: `calibrated_loss` and, if there is more than one image, `calibrated_calibration_error`. For
        the sets, with `lac_` and `aps_` in front: `coverage`, `set_size` (mean number of classes) and `empty_sets`
        (fraction). With a threshold of the confidence: `answered` (fraction that is answered) and `answered_accuracy`.
        With an out-of-distribution score: `unknown` (fraction above the threshold).
    """
    images, results = len(predictions.labels), dict[str, Any]()
    scale = uncertainty.temperature or 1.0
    found = outcomes_of(predictions.logits / np.float32(scale), predictions.labels, name=f"{predictions.split} split")
    if uncertainty.temperature is not None:
        results["calibrated_loss"] = float(found.loss.mean())
        if images > 1:
            results["calibrated_calibration_error"] = calibration_error(found.confidence, found.correct)
    for method in METHODS:
        if getattr(uncertainty, f"{method}_threshold") is not None:
            sizes, covered = set_sizes(uncertainty, predictions, method)
            results |= _fraction(f"{method}_coverage", covered)
            results |= {f"{method}_set_size": float(sizes.mean()), f"{method}_empty_sets": float((sizes == 0).mean())}
    if uncertainty.abstain_threshold is not None:
        answered = answers(uncertainty, predictions)
        results |= _fraction("answered", answered)
        if answered.any():
            results |= _fraction("answered_accuracy", found.correct[answered])
    if uncertainty.ood is not None and predictions.ood_scores is not None:
        results |= _fraction("unknown", predictions.ood_scores > uncertainty.ood.threshold)
    return results


def answers(uncertainty: Uncertainty, predictions: Predictions) -> NDArray[np.bool_]:
    """Return for which images the calibrated confidence is high enough."""
    assert uncertainty.abstain_threshold is not None
    highest = [part.max(axis=1) for _, part in chunks(uncertainty, predictions.logits)]
    return np.asarray(np.concatenate(highest) >= uncertainty.abstain_threshold)


def _fraction(name: str, chosen: NDArray[np.bool_]) -> dict[str, float]:
    low, high = wilson_interval(int(chosen.sum()), len(chosen))
    return {name: float(chosen.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
