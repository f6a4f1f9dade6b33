"""Validation predictions, and features of train and validation -> everything that is stored with the model."""

import dataclasses
import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from pipeline.evaluation.confidence import calibration_error
from pipeline.evaluation.outcomes import Outcomes, outcomes_of
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.abstention import fit_threshold
from pipeline.evaluation.uncertainty.conformal import chunks, conformal_quantile, true_scores
from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.evaluation.uncertainty.out_of_distribution import LabeledFeatures, fit_out_of_distribution
from pipeline.evaluation.uncertainty.temperature import fit_temperature
from pipeline.models.uncertainty import Uncertainty

logger = logging.getLogger(__name__)

T = TypeVar("T")


def fit_uncertainty(
    validation: Predictions,
    features: tuple[LabeledFeatures, LabeledFeatures] | None,
    *,
    coverage: float,
    abstain_precision: float,
) -> Uncertainty:
    """Return what the validation images determine. A log line names each part that they do not determine.

    Args:
        validation: Predictions of the validation split.
        features: Features of train and of validation; None: without an out-of-distribution score.
        coverage: Fraction of the images whose prediction set is meant to contain the true class.
        abstain_precision: Fraction of the answers that is meant to be correct.

    Raises:
        PipelineError: If logits are NaN or infinite.
    """
    logits, labels = validation.logits, validation.labels
    before = outcomes_of(logits, labels, name=f"{validation.split} split")
    temperature = _attempt("temperature", lambda: _best_temperature(validation, before))
    fitted = Uncertainty(coverage, abstain_precision, len(labels), temperature)
    lac, aps = true_scores(fitted, logits, labels)
    confidence = np.concatenate([part.max(axis=1) for _, part in chunks(fitted, logits)])
    thresholds = _attempt(
        f"prediction sets for --coverage {coverage:g}",
        lambda: (conformal_quantile(lac, coverage), conformal_quantile(aps, coverage)),
    )
    abstain = _attempt(
        f"threshold for --abstain_precision {abstain_precision:g}",
        lambda: fit_threshold(confidence, before.correct, abstain_precision),
    )
    ood = _attempt("out-of-distribution score", lambda: fit_out_of_distribution(*features)) if features else None
    lac_threshold, aps_threshold = thresholds or (None, None)
    return dataclasses.replace(
        fitted, lac_threshold=lac_threshold, aps_threshold=aps_threshold, abstain_threshold=abstain, ood=ood
    )


def _best_temperature(validation: Predictions, before: Outcomes) -> float:
    """Return the temperature with the lowest loss, or 1 if that would raise the calibration error on validation."""
    fitted = fit_temperature(validation.logits, validation.labels)
    after = outcomes_of(validation.logits / np.float32(fitted), validation.labels)
    errors = [calibration_error(each.confidence, each.correct) for each in (before, after)]
    better = not errors[1] > errors[0]  # both can be 0, or NaN for one image
    logger.info(
        "%s: temperature %.3f changes the calibration error on validation from %.4f to %.4f",
        "probabilities are calibrated" if better else "probabilities stay as they are",
        fitted,
        *errors,
    )
    return fitted if better else 1.0


def _attempt(part: str, fit: Callable[[], T]) -> T | None:
    """Return what `fit` returns; None, with a log line, if it cannot be fitted."""
    try:
        return fit()
    except NotFitted as reason:
        logger.info("no %s is stored: %s", part, reason)
        return None
