"""The metrics of the stored confidence agree with loops over the images."""

import numpy as np
import pytest
from scipy.special import softmax

from pipeline.evaluation.confidence import calibration_error, wilson_interval
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.scoring import all_metrics
from pipeline.evaluation.uncertainty.metrics import uncertainty_metrics
from pipeline.models.uncertainty import OutOfDistribution, Uncertainty
from tests.evaluation.uncertainty.made_predictions import made

NOTHING = np.zeros(0, np.float32)
OOD = OutOfDistribution(False, NOTHING, NOTHING, NOTHING, threshold=2.0)


def test_the_metrics_are_those_of_the_sets_written_out() -> None:
    test = made(0, 300, 6, split="test")
    test = Predictions("test", test.ids, test.labels, test.logits, np.linspace(0, 4, 300).astype(np.float32))
    stored = Uncertainty(0.9, 0.95, 100, 1.5, 0.7, 0.6, 0.4, OOD)
    probabilities = softmax(test.logits.astype(float) / 1.5, axis=1)
    lac = [{c for c in range(6) if 1 - p[c] <= 0.7} for p in probabilities]
    aps = [{c for c in range(6) if sum(q for q in p if q > p[c]) <= 0.6} for p in probabilities]
    confident = probabilities.max(axis=1) >= 0.4
    correct = probabilities.argmax(axis=1) == test.labels
    found = uncertainty_metrics(test, stored)
    for name, sets in (("lac", lac), ("aps", aps)):
        covered = [label in each for label, each in zip(test.labels, sets, strict=True)]
        assert found[f"{name}_coverage"] == pytest.approx(np.mean(covered))
        low, high = wilson_interval(sum(covered), 300)
        assert (found[f"{name}_coverage_low"], found[f"{name}_coverage_high"]) == (low, high)
        assert found[f"{name}_set_size"] == pytest.approx(np.mean([len(each) for each in sets]))
        assert found[f"{name}_empty_sets"] == pytest.approx(np.mean([not each for each in sets]))
    assert found["answered"] == pytest.approx(confident.mean())
    assert found["answered_accuracy"] == pytest.approx(correct[confident].mean())
    assert found["unknown"] == 0.5
    assert found["calibrated_loss"] == pytest.approx(-np.log(probabilities[np.arange(300), test.labels]).mean())
    expected = calibration_error(probabilities.max(axis=1), correct)
    assert found["calibrated_calibration_error"] == pytest.approx(expected, abs=1e-3)
    complete = all_metrics([test], [*"abcdef"], stored)
    assert {f"test_{key}": value for key, value in found.items()}.items() <= complete.items()


def test_only_stored_parts_are_measured() -> None:
    assert uncertainty_metrics(made(0, 20, 3), Uncertainty(0.9, 0.95, 20)) == {}
    never = uncertainty_metrics(made(0, 20, 3), Uncertainty(0.9, 0.95, 20, abstain_threshold=1.5))
    assert never.keys() == {"answered", "answered_low", "answered_high"}
    assert never["answered"] == 0
    one = uncertainty_metrics(made(0, 1, 3), Uncertainty(0.9, 0.95, 20, temperature=2.0))
    assert one.keys() == {"calibrated_loss"}
