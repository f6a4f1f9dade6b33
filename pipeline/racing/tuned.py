"""A finalist: fine-tuned by `train` in a run folder, and the soft vote of several."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import read_predictions
from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.evaluation.uncertainty.temperature import fit_temperature
from pipeline.models.classifier import ImageClassifier
from pipeline.models.uncertainty import Uncertainty
from pipeline.racing.entry import ENSEMBLE, Answers, Cost, Entry
from pipeline.racing.measure import measure_prediction
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import PREDICTIONS, RunFolder

logger = logging.getLogger(__name__)


def read_tuned(probe: Entry, run: Path, strategy: str) -> Entry:
    """Return the entry of a finished run. What it costs in prediction is measured once, and kept next to the run.

    Args:
        probe: The entry of the linear probe of the same backbone.
        run: The run folder.
        strategy: Strategy of the race.
    """
    splits = {each.split: each for each in read_predictions(run / PREDICTIONS)[0]}
    answers = {name: Answers.of(each.logits, each.labels) for name, each in splits.items()}
    speed = RunFolder(run).record.get("speed") or {}
    cost = dataclasses.replace(
        _cost(run, probe.cost), train_images_per_second=speed.get("images_per_second"), memory_gb=None
    )
    return dataclasses.replace(
        probe, strategy=strategy, validation=answers["validation"], test=answers.get("test"), cost=cost, folder=run
    )


def vote(members: Sequence[Entry]) -> Entry:
    """Return the soft vote of entries: the mean of their probabilities, each calibrated on validation."""
    temperatures = [_temperature(each) for each in members]
    probabilities = {"validation": _mean([each.validation for each in members], temperatures)}
    if all(each.test is not None for each in members):
        probabilities["test"] = _mean([each.test for each in members], temperatures)
    costs = [each.cost for each in members if each.cost is not None]
    licenses = sorted({each.license or "unknown" for each in members})
    return Entry(
        " + ".join(each.backbone for each in members),
        ENSEMBLE,
        probabilities["validation"],
        probabilities.get("test"),
        cost=_sum(costs),
        license=", ".join(licenses),
    )


def _cost(run: Path, of_probe: Cost | None) -> Cost:
    """Return the cost in prediction. The network of the probe, with other weights, is not measured again."""
    path = run.parent / f"{run.name}-cost.json"
    if not path.is_file() or path.stat().st_mtime < (run / PREDICTIONS).stat().st_mtime:
        write_json(path, dataclasses.asdict(measure_prediction(ImageClassifier.load(run), known=of_probe)))
    return Cost.of(read_json(path))


def _temperature(entry: Entry) -> float:
    answers = entry.validation
    assert answers is not None
    assert answers.logits is not None
    try:
        return fit_temperature(answers.logits, answers.labels)
    except NotFitted as reason:
        logger.info("soft vote: %s is not calibrated, because %s", entry.backbone, reason)
        return 1.0


def _mean(all_answers: Sequence[Answers | None], temperatures: Sequence[float]) -> Answers:
    """Return the answers of the mean of calibrated probabilities; the logits are its logarithm."""
    probabilities: list[NDArray[np.float64]] = []
    labels: NDArray[np.int64] = np.array([], dtype=np.int64)
    for answers, temperature in zip(all_answers, temperatures, strict=True):
        assert answers is not None
        assert answers.logits is not None
        calibrated = Uncertainty(coverage=0.0, abstain_precision=0.0, images=0, temperature=temperature)
        probabilities.append(calibrated.probabilities(answers.logits))
        labels = answers.labels
    mean = np.mean(probabilities, axis=0)
    return Answers.of(np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32), labels)


def _sum(costs: Sequence[Cost]) -> Cost:
    """Return the cost of running all networks one after the other."""
    rates = [each.predict_images_per_second for each in costs]
    known = [rate for rate in rates if rate]
    return Cost(
        parameters=sum(each.parameters for each in costs),
        gflops=sum(each.gflops for each in costs),
        input_size=max(each.input_size for each in costs),
        train_images_per_second=None,
        predict_images_per_second=1 / sum(1 / rate for rate in known) if len(known) == len(rates) else None,
    )
