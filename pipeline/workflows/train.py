"""`train`: settings -> data -> classifier -> fit -> selection -> saved files -> their scores -> card -> push."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import config, distributed, hub
from pipeline.arguments.data import NO_DATASET
from pipeline.arguments.settings import GROUPS, NEUTRAL, Settings
from pipeline.config import CommandLine
from pipeline.config.names import is_shipped
from pipeline.data import report, sources
from pipeline.data.bad_images import Skipped, describe_skipped
from pipeline.data.report import LoadedSplits
from pipeline.data.source_types import SOURCE_TYPES
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.evaluation.thumbnails import write_thumbnails
from pipeline.images.depth import GrayscaleDepth, set_depth
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.performance.machine import keep_freed_memory
from pipeline.performance.throughput import Clock
from pipeline.probing.baseline import fit_baseline
from pipeline.probing.confidence import score_validation
from pipeline.probing.linear import install_head
from pipeline.reporting import card
from pipeline.reporting import report as report_page
from pipeline.reporting.run import Run
from pipeline.runs import folder as run_folder
from pipeline.runs.files import absolute_if_local, write_json
from pipeline.runs.folder import RunFolder
from pipeline.runs.lock import lock
from pipeline.selection.auto import warn_of_high_learning_rate
from pipeline.selection.choose import Chosen, choose_settings
from pipeline.selection.improve import Propose, improve
from pipeline.selection.steps import selection_steps
from pipeline.training.compatibility import reject_unsupported
from pipeline.training.fit import fit
from pipeline.training.trial import try_settings

logger = logging.getLogger(__name__)

ARGUMENTS = GROUPS


def train(config: str | Path | None = None, **flags: Any) -> Run:
    """Fine-tune a model, keep the best checkpoint on validation, and score the saved model once on test.

    The same call resumes an unfinished run, and returns a finished one.

    Args:
        config: Name of a shipped recipe, or a YAML file.
        flags: The flags of `vit-pipeline train --help-all` by their names, with Python values; they override the
            recipe.

    Returns:
        The finished run.

    Raises:
        PipelineError: If a flag, the data or the model cannot be used; raised before the run folder is created.
        Terminated: If SIGTERM arrived; a checkpoint was written.
    """
    with distributed.fail_together():
        line = _read_call(config, flags)
    return _train(line, owns_process=False)


def run(line: CommandLine) -> str:
    """Run the verb, and return the results as text."""
    finished = _train(line, owns_process=True)
    skipped = RunFolder(finished.folder).record["data"].get("skipped", [])
    return "\n".join(filter(None, [str(finished), describe_skipped([Skipped(**entry) for entry in skipped])]))


def _read_call(recipe: str | Path | None, flags: dict[str, Any]) -> CommandLine:
    line = config.read_call("train", recipe, flags)
    config.check(line)
    return line


def _train(line: CommandLine, *, owns_process: bool) -> Run:
    with distributed.fail_together():
        _check_targets(line)
        chosen = _choose(line)
        line = chosen.line
        settings = Settings(*config.parse(line, GROUPS))
        distributed.require_same(settings.resolved())
        arguments = _recorded(settings)
        run = _claim(line, settings, arguments)
    with _one_writer(run):
        if run.finished:
            logger.info("%s was finished before; showing its results", run.folder)
        else:
            logger.info("%s", settings.trainer.describe())
            warn_of_high_learning_rate(settings)
            splits, classifier = _load(chosen, settings, run=run, arguments=arguments)
            if owns_process:  # after the splits are loaded, or their temporary memory would be kept too
                keep_freed_memory()
            steps = selection_steps(settings, size_is_fixed="image_size" in line.given)
            results = _fit(classifier, splits, settings, steps, run=run)
            _score(run, splits, settings, results)
        return _finish(run, settings)


@contextlib.contextmanager
def _one_writer(run: RunFolder) -> Iterator[None]:
    """Reject another command in the folder while this one runs."""
    with contextlib.ExitStack() as stack:
        distributed.on_main_process(lambda: stack.enter_context(lock(run.folder)))
        yield


def _recorded(settings: Settings) -> dict[str, Any]:
    """Return the settings for `recipe.yaml`, with absolute paths: the run finds its data and model from any folder."""
    arguments = settings.resolved()
    data, model = arguments["dataset_name"], arguments["model_name_or_path"]
    if data is not None and data not in SOURCE_TYPES:
        arguments["dataset_name"] = absolute_if_local(data)
    if not is_shipped(model):
        arguments["model_name_or_path"] = absolute_if_local(model)
    return arguments


def _check_targets(line: CommandLine) -> None:
    """Reject a folder and a repository that cannot be used, because `--auto` may train for minutes before `_claim`."""
    settings = Settings(*config.parse(line, GROUPS))
    if settings.data.dataset_name is None:
        raise PipelineError(f"{NO_DATASET}; or use --config RECIPE")
    folder, args = _folder(line, settings), settings.trainer
    distributed.on_main_process(lambda: run_folder.check_usable(folder))
    if args.push_to_hub and args.hub_model_id:
        repo_id = args.hub_model_id
        distributed.on_main_process(lambda: hub.check_may_push(repo_id))


def _choose(line: CommandLine) -> Chosen:
    """Let `--auto` choose settings. A run that was started before keeps its choices."""
    settings = Settings(*config.parse(line, GROUPS))
    if not settings.selection.auto:
        return Chosen(line)
    record = distributed.broadcast(RunFolder(_folder(line, settings)).record)
    return choose_settings(line, settings, of_run=record.get("auto"), attempt=try_settings)


def _folder(line: CommandLine, settings: Settings) -> Path:
    args = settings.trainer
    default = run_folder.default_folder(recipe=line.recipe, dataset=settings.data.dataset_name, seed=args.seed)
    return Path(args.output_dir or default)


def _claim(line: CommandLine, settings: Settings, arguments: dict[str, Any]) -> RunFolder:
    """Return the run folder, and reject one that holds another run."""
    run = RunFolder(_folder(line, settings), writes=distributed.is_main_process())
    distributed.on_main_process(lambda: run_folder.claim(run.folder, arguments=arguments, neutral=NEUTRAL))
    distributed.require_same({f"{run.folder} (which all machines share)": run.record.get("status", "new")})
    return run


def _load(
    chosen: Chosen, settings: Settings, *, run: RunFolder, arguments: dict[str, Any]
) -> tuple[LoadedSplits, ImageClassifier]:
    """Load the images and the model, check that they fit, and start the run folder."""
    with distributed.fail_together():
        splits = chosen.splits or sources.load_splits(settings.data)
        data = report.describe(splits, settings.data.dataset_name, revision=settings.data.dataset_revision)
        distributed.require_same(data)
        fingerprint = str(data["fingerprint"])
        distributed.on_main_process(
            lambda: run_folder.claim(run.folder, arguments=arguments, neutral=NEUTRAL, fingerprint=fingerprint)
        )
        class_names = splits["train"].features["label"].names
        classifier = build_classifier(settings.model, class_names=class_names, seed=settings.trainer.seed)
        set_depth(classifier.processor, splits.grayscale_bits)
        reject_unsupported(classifier, settings)
        distributed.on_main_process(
            lambda: run_folder.start(
                run,
                command=chosen.line.words,
                arguments=arguments,
                data=data,
                machine=settings.trainer.machine(),
                auto=list(chosen.line.chosen) if settings.selection.auto else None,
                trials=[trial.as_json() for trial in chosen.trials],
            )
        )
    return splits, classifier


def _fit(
    classifier: ImageClassifier,
    splits: LoadedSplits,
    settings: Settings,
    steps: list[tuple[str, Propose]],
    *,
    run: RunFolder,
) -> dict[str, Any]:
    """Train the classifier as the strategy says, let the selection steps improve it, and save it."""
    clock, results = Clock(), dict[str, Any]()
    is_probe = settings.strategy.strategy == "head"
    with run.timed("train"):
        if is_probe or settings.model.head_init == "probe" or settings.strategy.baseline:
            probe, results = fit_baseline(classifier, splits, args=settings.trainer, run=run)
            if is_probe or settings.model.head_init == "probe":
                install_head(classifier, probe)
        if not is_probe:
            results |= fit(
                classifier,
                splits,
                folder=run.folder,
                settings=_with_decisions(settings, run),
                clock=clock,
                on_decisions=lambda found: run.update(machine=run.record["machine"] | found),
            )
            if speed := results.pop("speed", None):
                run.update(speed=speed)
        classifier, selected = improve(classifier, splits, settings, steps)
    distributed.on_main_process(lambda: classifier.save(run.folder))
    return results | selected


def _with_decisions(settings: Settings, run: RunFolder) -> Settings:
    """Return the settings with what the machine decided when the run was started, so that a resume repeats it."""
    decided = distributed.broadcast(run.record["machine"]).get("image_cache", "auto")
    if settings.images.image_cache != "auto":
        return settings
    return dataclasses.replace(settings, images=dataclasses.replace(settings.images, image_cache=decided))


def _score(run: RunFolder, splits: LoadedSplits, settings: Settings, results: dict[str, Any]) -> None:
    """Score the saved files on validation and, once, on test; write the results and the card."""
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
    distributed.on_main_process(lambda: _write_results(run, predictions, classifier, results))
    if settings.trainer.report == "yes":
        distributed.on_main_process(lambda: _write_report(run, predictions, splits, classifier))


def _write_results(
    run: RunFolder, predictions: Sequence[Predictions], classifier: ImageClassifier, results: dict[str, Any]
) -> None:
    write_predictions(run.folder / run_folder.PREDICTIONS, predictions, classifier.class_names)
    metrics = scoring.all_metrics(predictions, classifier.class_names, classifier.uncertainty)
    write_json(run.folder / run_folder.RESULTS, results | metrics)
    card.write(run.folder)
    run.update(status="finished")


def _write_report(
    run: RunFolder, predictions: Sequence[Predictions], splits: LoadedSplits, classifier: ImageClassifier
) -> None:
    """Write thumbnails and report. The run is finished before, so it is not lost if they cannot be written."""
    write_thumbnails(run.folder / run_folder.THUMBNAILS, predictions, splits, GrayscaleDepth.of(classifier.processor))
    report_page.write(run.folder)


def _finish(run: RunFolder, settings: Settings) -> Run:
    """Push the run if asked for, and return it."""
    args = settings.trainer
    if args.push_to_hub and args.hub_model_id and distributed.is_main_process():
        card.write(run.folder, repo_id=args.hub_model_id)
        revision = args.hub_revision or "main"
        try:
            address = hub.push_run(run.folder, args.hub_model_id, private=args.hub_private_repo, revision=revision)
        except PipelineError as error:
            logger.warning("%s", Run(run.folder))  # the results, which the error would hide
            command = f"push --model {run.folder} --hub_model_id {args.hub_model_id}"
            raise PipelineError(f"{error}\nthe run in {run.folder} is finished: push it with `{command}`") from error
        logger.info("pushed to %s", address)
    return Run(run.folder)
