"""What validation does not determine is not stored, and one log line says so."""

import logging

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.confidence import calibration_error
from pipeline.evaluation.outcomes import outcomes_of
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.fit import fit_uncertainty
from tests.evaluation.uncertainty.made_predictions import clusters, made

ALL = {"coverage": 0.9, "abstain_precision": 0.9}


def test_enough_images_determine_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    sure = made(0, 1000, 5, skill=3)
    sure = Predictions(sure.split, sure.ids, sure.labels, 12 * sure.logits)
    fitted = fit_uncertainty(sure, (clusters(0, 100), clusters(1, 50)), **ALL)
    assert None not in vars(fitted).values()
    assert fitted.temperature is not None
    assert fitted.temperature > 3
    assert (fitted.coverage, fitted.abstain_precision, fitted.images) == (0.9, 0.9, 1000)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"probabilities are calibrated: temperature {fitted.temperature:.3f} changes")


def test_a_temperature_that_would_raise_the_calibration_error_is_not_used() -> None:
    found = 0
    for seed in range(40):
        validation = made(seed, 150, 4, skill=1)
        temperature = fit_uncertainty(validation, None, **ALL).temperature
        if temperature is None:
            continue
        before, after = (
            outcomes_of(validation.logits / np.float32(each), validation.labels) for each in (1, temperature)
        )
        errors = [calibration_error(each.confidence, each.correct) for each in (before, after)]
        assert errors[1] <= errors[0] or temperature == 1
        found += temperature == 1
    assert found


def test_ten_images_determine_the_sets_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    fitted = fit_uncertainty(made(1, 10, 3), (clusters(0, 100), clusters(1, 10)), **ALL)
    assert fitted.lac_threshold is not None
    assert fitted.aps_threshold is not None
    assert (fitted.temperature, fitted.abstain_threshold, fitted.ood) == (None, None, None)
    messages = [record.getMessage() for record in caplog.records]
    parts = ["temperature", "threshold for --abstain_precision 0.9", "out-of-distribution score"]
    assert [message.partition(" is stored: ")[0] for message in messages] == [f"no {part}" for part in parts]


def test_eight_images_determine_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    assert not fit_uncertainty(made(1, 8, 3), None, **ALL)
    assert "no prediction sets for --coverage 0.9 is stored: it needs at least 9" in caplog.text


def test_nan_logits_are_refused() -> None:
    broken = made(0, 50, 3)
    broken.logits[7, 1] = np.nan
    with pytest.raises(PipelineError, match="validation split: NaN or infinite logits for 1 of 50 images"):
        fit_uncertainty(broken, None, **ALL)
