"""The audit of `train`: wrong labels, duplicates and leakage -> issues.csv, and accuracies without leaked images."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.data.row_ids import row_ids
from pipeline.data.streaming import Stream
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.audit.duplicates import Duplicate, Row, Scan, scan
from pipeline.evaluation.audit.issues import (
    AuditedSplit,
    Issue,
    duplicate_issues,
    label_issues,
    shown_issues,
    write_issues,
)
from pipeline.evaluation.audit.labels import Evidence, find_suspects, of_predictions
from pipeline.evaluation.audit.leakage import without_leaks
from pipeline.evaluation.predictions import Predictions
from pipeline.images.depth import GrayscaleDepth
from pipeline.models.classifier import ImageClassifier
from pipeline.models.head import has_linear_head
from pipeline.models.inference import LoaderOptions
from pipeline.probing import out_of_fold
from pipeline.probing.features import extract
from pipeline.runs.folder import ISSUES, RunFolder

logger = logging.getLogger(__name__)

MAX_IMAGES = 50_000
"""With more images, duplicates are not searched for: each image would be decoded once more."""


@dataclass(frozen=True)
class Audit:
    """What was found in addition to the table.

    Attributes:
        metrics: The metrics without leaked images, see `without_leaks`.
        shown: Split -> row -> id of the images that the report shows.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def audit(
    classifier: ImageClassifier,
    splits: Mapping[str, datasets.Dataset],
    predictions: Sequence[Predictions],
    evidence: Sequence[Evidence],
    *,
    settings: Settings,
    run: RunFolder,
) -> Audit:
    """Write `issues.csv`, and return what else was found. All ranks must call it.

    Args:
        classifier: The saved model. Its features confirm near duplicates.
        splits: Rows with `image`, `label` and `index`.
        predictions: The predictions of validation and test, whose images the model was not trained on.
        evidence: What is known about the labels of train.
        settings: How images are loaded, and the name of the dataset.
        run: Its folder gets the table, its record the number of issues.
    """
    if isinstance(splits["train"], Stream):
        logger.info("no audit of labels and duplicates: --streaming does not keep the training images")
        return Audit()
    start = time.perf_counter()
    with run.timed("audit"):
        duplicates = find_duplicates(classifier, splits, LoaderOptions.of(settings.trainer))
        if not distributed.is_main_process():
            return Audit()
        audited = _ids_and_labels(splits, predictions, settings.data.dataset_name)
        if not evidence:
            logger.info("the training labels are not checked%s", _how_to_check(classifier, splits, settings))
        issues = _label_issues(classifier, splits, predictions, evidence, audited)
        issues += duplicate_issues(audited, duplicates or [])
        write_issues(run.folder / ISSUES, issues)
        counts = Counter((issue.split, issue.issue) for issue in issues)
        run.update(audit=[{"split": name, "issue": kind, "count": count} for (name, kind), count in counts.items()])
    listed = ", ".join(f"{count} {name} {kind}" for (name, kind), count in counts.items()) or "none"
    logger.info("audit of the data in %.1f s: issues: %s", time.perf_counter() - start, listed)
    metrics: dict[str, Any] = {}
    for each in predictions if duplicates is not None else []:
        metrics |= without_leaks(each, duplicates or [])
    return Audit(metrics, _shown(issues, audited))


def _shown(issues: Sequence[Issue], audited: Mapping[str, AuditedSplit]) -> dict[str, dict[int, str]]:
    """Return the rows, with their ids, of the images of the issues that the report shows."""
    labels, repeated = shown_issues(issues)
    names = [(each.split, each.file) for each in (*repeated, *labels)]
    names += [(each.other_split, each.other_file) for each in repeated]
    row_of = {split: {name: row for row, name in enumerate(each.ids)} for split, each in audited.items()}
    shown: dict[str, dict[int, str]] = {}
    for split, name in names:
        shown.setdefault(split, {})[row_of[split][name]] = name
    return shown


def find_duplicates(
    classifier: ImageClassifier, splits: Mapping[str, datasets.Dataset], options: LoaderOptions
) -> list[Duplicate] | None:
    """Return the duplicates in all splits, or None with too many images. All ranks must call it.

    Raises:
        BadImageError: If an image cannot be read.
    """
    if (images := sum(map(len, splits.values()))) > MAX_IMAGES:
        logger.info("no search for duplicates: %d images are more than %d", images, MAX_IMAGES)
        return None
    found: Scan | None = None
    with distributed.fail_together():
        if distributed.is_main_process():
            found = scan(splits, GrayscaleDepth.of(classifier.processor))
    candidates = distributed.broadcast(found.candidates if found else None)
    features = _features(classifier, splits, candidates, options) if candidates else np.zeros((0, 1))
    if found is None:
        return []
    order = {name: number for number, name in enumerate(splits)}
    near = found.near(features) if candidates else []
    return sorted([*found.exact, *near], key=lambda each: (order[each.row[0]], each.row[1]))


def _features(
    classifier: ImageClassifier, splits: Mapping[str, datasets.Dataset], rows: Sequence[Row], options: LoaderOptions
) -> NDArray[np.floating]:
    """Return what the head reads of some images, or their logits if the head is not one linear layer."""
    selected = {
        name: split.select([row for of, row in rows if of == name])
        for name, split in splits.items()
        if any(of == name for of, _ in rows)
    }
    try:
        found = extract(classifier, selected, options, precision="fp32", keep=False)
        return np.concatenate([each.head for each in found.values()])
    except PipelineError:
        scored = [scoring.score(classifier, split, options, name=name) for name, split in selected.items()]
        return np.concatenate([each.logits for each in scored])


def _ids_and_labels(
    splits: Mapping[str, datasets.Dataset], predictions: Sequence[Predictions], dataset_name: str | None
) -> dict[str, AuditedSplit]:
    known = {each.split: each.ids for each in predictions}
    names = np.array(splits["train"].features["label"].names, dtype=object)
    return {
        name: AuditedSplit(known.get(name) or row_ids(split, dataset_name), names[read_integers(split)].tolist())
        for name, split in splits.items()
    }


def _how_to_check(classifier: ImageClassifier, splits: Mapping[str, datasets.Dataset], settings: Settings) -> str:
    """Return what to type so that the training labels are checked. A linear probe alone checks no larger dataset."""
    if settings.strategy.strategy == "head":
        return ""
    probes_can = len(splits["train"]) <= out_of_fold.MAX_IMAGES and has_linear_head(classifier.model)
    return f": {'add --baseline, or ' if probes_can else ''}train without --mixup and --cutmix"


def _label_issues(
    classifier: ImageClassifier,
    splits: Mapping[str, datasets.Dataset],
    predictions: Sequence[Predictions],
    evidence: Sequence[Evidence],
    audited: Mapping[str, AuditedSplit],
) -> list[Issue]:
    by_split = {"train": list(evidence)} if evidence else {}
    for each in predictions:
        stored = classifier.uncertainty
        probabilities = softmax(each.logits, axis=1) if stored is None else stored.probabilities(each.logits)
        by_split[each.split] = [of_predictions(probabilities, each.labels, "probability of the model")]
    names = splits["train"].features["label"].names
    return [
        issue
        for name, found in by_split.items()
        if len(audited[name].ids)
        for issue in label_issues(name, audited[name], find_suspects(found), names)
    ]
