"""The saved files of a training and its images -> scores, audit, report and card in the run folder."""

from collections.abc import Sequence
from typing import Any

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.data.report import LoadedSplits, fingerprint
from pipeline.evaluation import scoring
from pipeline.evaluation.audit.labels import Evidence
from pipeline.evaluation.explanations.gallery import Gallery, explain_gallery, write_gallery
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.evaluation.thumbnails import write_thumbnails
from pipeline.images.depth import GrayscaleDepth
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions, forward_seconds
from pipeline.probing.audit import Audit, audit
from pipeline.probing.confidence import score_validation
from pipeline.reporting import card
from pipeline.reporting import report as report_page
from pipeline.reporting.plots.trackers import log_confusion
from pipeline.runs import claim
from pipeline.runs import folder as run_folder
from pipeline.runs.files import write_json
from pipeline.runs.folder import RunFolder


def score_and_report(
    run: RunFolder, splits: LoadedSplits, settings: Settings, results: dict[str, Any], evidence: Sequence[Evidence]
) -> None:
    """Score the saved files on validation and, once, on test; audit the data; write results, card and report.

    All ranks must call it.

    Args:
        run: The run, whose model is saved. It is finished when the results are written, before the report is.
        splits: `validation`, `train` and, where there is one, `test`, with columns `image`, `label` and `index`.
        settings: The settings of the run.
        results: The metrics of the training; those of the audit are added.
        evidence: What the training found out about its labels.
    """
    with run.timed("model"):
        classifier = ImageClassifier.load(run.folder)
    predictions, names = [], ["validation", "test"]
    if settings.trainer.uncertainty == "yes":
        predictions.append(score_validation(classifier, splits, settings, run=run))
        names.remove("validation")
    with run.timed("score"):
        options = LoaderOptions.of(settings.trainer)
        predictions += [
            scoring.score(classifier, splits[name], options, name=name, dataset_name=settings.data.dataset_name)
            for name in names
            if name in splits
        ]
    audited = Audit()
    if settings.trainer.audit == "yes":
        audited = audit(classifier, splits, predictions, evidence, settings=settings, run=run)
        results |= audited.metrics
    # Images that were replaced while the run worked on them would give it results that cannot be repeated.
    distributed.on_main_process(lambda: claim.check_data(run, fingerprint=fingerprint(splits)))
    with run.timed("report"):
        distributed.on_main_process(lambda: _write_results(run, predictions, classifier, results))
    if settings.trainer.report == "yes":
        with run.timed("explain"):
            speed = 1 / forward_seconds(classifier.model, classifier.input_size)
            gallery = explain_gallery(classifier, predictions, splits, images_per_second=speed)
        trackers = settings.trainer.report_to
        with run.timed("report"):
            distributed.on_main_process(
                lambda: _write_report(run, predictions, splits, classifier, gallery, audited, trackers=trackers)
            )


def _write_results(
    run: RunFolder, predictions: Sequence[Predictions], classifier: ImageClassifier, results: dict[str, Any]
) -> None:
    write_predictions(run.folder / run_folder.PREDICTIONS, predictions, classifier.class_names)
    metrics = scoring.all_metrics(predictions, classifier.class_names, classifier.uncertainty)
    write_json(run.folder / run_folder.RESULTS, results | metrics)
    card.write(run.folder)
    run.finish()


def _write_report(
    run: RunFolder,
    predictions: Sequence[Predictions],
    splits: LoadedSplits,
    classifier: ImageClassifier,
    gallery: Gallery,
    audited: Audit,
    *,
    trackers: Sequence[str],
) -> None:
    """Write report, pictures and plots. The run is finished before, so it is not lost if they cannot be written."""
    depth = GrayscaleDepth.of(classifier.processor)
    write_thumbnails(run.folder / run_folder.THUMBNAILS, predictions, splits, depth, audited.shown)
    write_gallery(run.folder / run_folder.RELEVANCE, gallery)
    report_page.write(run.folder)
    card.write(run.folder)  # again, with the plots
    log_confusion(run.folder, trackers)
