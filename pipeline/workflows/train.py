"""`train`: settings -> data -> classifier -> fit -> selection -> saved files -> their scores -> card -> push."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline import distributed, hub, watchdog
from pipeline.arguments.settings import DEFAULTS, GROUPS, NEUTRAL, Settings
from pipeline.config import CommandLine, checked_call
from pipeline.data import report, sources
from pipeline.data.bad_images import Skipped, describe_skipped
from pipeline.data.report import LoadedSplits
from pipeline.diagnosis.environment import environment, storage
from pipeline.diagnosis.finding import reject_errors
from pipeline.errors import PipelineError
from pipeline.evaluation.audit.labels import Evidence
from pipeline.images.depth import set_depth
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from pipeline.performance.machine import keep_freed_memory
from pipeline.performance.throughput import Clock
from pipeline.probing.baseline import fit_baseline
from pipeline.probing.confidence import precision_of_probe
from pipeline.probing.linear import install_head
from pipeline.reporting import card
from pipeline.reporting.run import Run
from pipeline.runs import claim
from pipeline.runs import folder as run_folder
from pipeline.runs.claim import Call
from pipeline.runs.folder import RunFolder
from pipeline.runs.lock import lock
from pipeline.selection.auto import warn_of_high_learning_rate
from pipeline.selection.choose import Chosen, choose_settings
from pipeline.selection.improve import improve
from pipeline.selection.settings import as_recipe, read_settings
from pipeline.selection.steps import selection_steps
from pipeline.training.compatibility import reject_unsupported
from pipeline.training.fine_tune import fine_tune
from pipeline.training.rehearsal import rehearse
from pipeline.training.trial import try_settings
from pipeline.workflows.results import score_and_report

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
        Terminated: If a signal arrived; a checkpoint was written.
    """
    with distributed.fail_together():
        line = checked_call("train", config, flags)
    return _train(line, owns_process=False)


def run(line: CommandLine) -> str:
    """Run the verb, and return the results as text."""
    finished = _train(line, owns_process=True)
    skipped = RunFolder(finished.folder).record["data"].get("skipped", [])
    return "\n".join(filter(None, [str(finished), describe_skipped([Skipped(**entry) for entry in skipped])]))


def _train(line: CommandLine, *, owns_process: bool) -> Run:
    with distributed.fail_together():
        run, settings = _claim(line)
    with _one_writer(run), watchdog.must_progress(settings.data.dataloader_timeout):
        if _is_finished(run):
            logger.info("%s was finished before; showing its results", run.folder)
        else:
            if settings.strategy.strategy != "head":
                with distributed.fail_together():
                    rehearse(settings.trainer)
            clock = Clock()
            if owns_process:  # imports, and checks of the call
                clock.phases["start"] = time.time() - psutil.Process().create_time()
            with clock.timed("data"):
                splits, data = _load_splits(run, settings)
            if owns_process:  # after the splits are loaded, or their temporary memory would be kept too
                keep_freed_memory()
            if settings.selection.auto and not run.record:
                with clock.timed("auto"):
                    chosen = choose_settings(line, splits, attempt=try_settings)
            else:
                chosen = Chosen(settings)
            with clock.timed("model"):
                classifier = _start(run, chosen, splits, data, command=line.words)
            run.add_timings(clock.phases)
            results, evidence = _fit(classifier, splits, chosen.settings, run=run)
            score_and_report(run, splits, chosen.settings, results, evidence)
        return _finish(run, settings)


def _is_finished(run: RunFolder) -> bool:
    """Return whether the run is finished. If a file of it is missing or damaged, what wrote the file runs again."""

    def check() -> None:
        if run.finished and (damage := run.find_damage()) is not None:
            logger.warning("%s: %s; writing the results again", run.folder, damage)
            run.update(status="running")

    distributed.on_main_process(check)
    return run.finished


def _claim(line: CommandLine) -> tuple[RunFolder, Settings]:
    """Return the run folder, and the settings of the call with what `--auto` chose when the run in it was started.

    What can be checked without data is checked here, because `--auto` may train for minutes before the run is started.

    Raises:
        PipelineError: If the folder holds another run, or the folder or the repository cannot be used.
    """
    settings = read_settings(line)
    run = RunFolder(Path(str(settings.trainer.output_dir)), writes=distributed.is_main_process())
    distributed.on_main_process(lambda: run_folder.check_usable(run.folder))
    distributed.on_main_process(lambda: _fetch(run, settings))
    distributed.on_main_process(lambda: reject_errors(environment(settings)))
    record = distributed.broadcast(run.record)
    distributed.require_same({f"{run.folder} (which all machines share)": run.record.get("status", "new")})
    if settings.selection.auto and record:
        if "auto" not in record:
            raise PipelineError(f"{run.folder} holds a run without --auto: choose another --output_dir")
        settings = read_settings(dataclasses.replace(line, chosen=record["auto"]))
        logger.info("auto: keeping the choices of the run: %s", " ".join(record["auto"]))
    distributed.require_same(settings.resolved())
    call = _call(settings)
    distributed.on_main_process(lambda: claim.claim(run.folder, call))
    args = settings.trainer
    if args.push_to_hub and args.hub_model_id:
        repo_id = args.hub_model_id
        distributed.on_main_process(lambda: hub.check_may_push(repo_id))
    return run, settings


def _fetch(run: RunFolder, settings: Settings) -> None:
    """Download the run from its repository, if an unfinished one was pushed from another machine."""
    args = settings.trainer
    if args.push_to_hub and args.hub_strategy == "checkpoint" and not run.record:
        hub.fetch_run(
            run.folder, str(args.hub_model_id), revision=args.hub_revision or "main", arguments=as_recipe(settings)
        )


def _call(settings: Settings) -> Call:
    args = settings.trainer
    return Call(as_recipe(settings), NEUTRAL, DEFAULTS, args.machine(), anyway=args.resume == "anyway")


@contextlib.contextmanager
def _one_writer(run: RunFolder) -> Iterator[None]:
    """Reject another command in the folder while this one runs."""
    with contextlib.ExitStack() as stack:
        distributed.on_main_process(lambda: stack.enter_context(lock(run.folder)))
        yield


def _load_splits(run: RunFolder, settings: Settings) -> tuple[LoadedSplits, dict[str, Any]]:
    """Return the images and their description for `run.json`. Check that they are those of the run."""
    with distributed.fail_together():
        splits = sources.load_splits(settings.data)
        data = report.describe(splits, settings.data.dataset_name, revision=settings.data.dataset_revision)
        distributed.require_same(data)
        fingerprint, anyway = str(data["fingerprint"]), settings.trainer.resume == "anyway"
        distributed.on_main_process(lambda: claim.check_data(run, fingerprint=fingerprint, anyway=anyway))
    return splits, data


def _start(
    run: RunFolder, chosen: Chosen, splits: LoadedSplits, data: Mapping[str, Any], *, command: Sequence[str]
) -> ImageClassifier:
    """Build the model, check that the settings fit it, and start the run folder."""
    settings = chosen.settings
    logger.info("%s", settings.trainer.describe())
    warn_of_high_learning_rate(settings)
    with distributed.fail_together():
        distributed.require_same(settings.resolved())
        class_names = splits["train"].features["label"].names
        classifier = build_classifier(settings.model, class_names=class_names, seed=settings.trainer.seed)
        set_depth(classifier.processor, splits.grayscale_bits)
        reject_unsupported(classifier, settings)
        distributed.on_main_process(lambda: claim.note_changes(run, _call(settings), data=data, command=command))
        if not run.record:  # one that continues has written its checkpoints
            weights, size = classifier.model.num_parameters(), classifier.input_size
            distributed.on_main_process(lambda: reject_errors(storage(settings, weights=weights, input_size=size)))
        distributed.on_main_process(
            lambda: run_folder.start(
                run,
                command=command,
                arguments=as_recipe(settings),
                data=data,
                machine=settings.trainer.machine(),
                auto=chosen.words,
                trials=[trial.as_json() for trial in chosen.trials],
            )
        )
    return classifier


def _fit(
    classifier: ImageClassifier, splits: LoadedSplits, settings: Settings, *, run: RunFolder
) -> tuple[dict[str, Any], list[Evidence]]:
    """Train the classifier as the strategy says, let the selection steps improve it, and save it.

    Returns:
        The metrics of the training, and what it found out about the training labels.
    """
    clock, results, evidence = Clock(), dict[str, Any](), list[Evidence | None]()
    is_probe = settings.strategy.strategy == "head"
    with run.timed("train"):
        if is_probe or settings.model.head_init == "probe" or settings.strategy.baseline:
            precision = precision_of_probe(splits, settings) if is_probe else None
            probe, results, out_of_fold = fit_baseline(
                classifier, splits, args=settings.trainer, run=run, precision=precision
            )
            evidence.append(out_of_fold)
            if is_probe or settings.model.head_init == "probe":
                install_head(classifier, probe)
        if not is_probe:
            results |= fine_tune(classifier, splits, settings, run=run, clock=clock)
            evidence.append(results.pop("margins", None))
        classifier, selected = improve(classifier, splits, settings, selection_steps(settings))
        distributed.on_main_process(lambda: classifier.save(run.folder))
    return results | selected, [each for each in evidence if each is not None]


def _finish(run: RunFolder, settings: Settings) -> Run:
    """Push the run if asked for, and return it."""
    args = settings.trainer
    if args.push_to_hub and args.hub_model_id and distributed.is_main_process():
        card.write(run.folder, repo_id=args.hub_model_id)
        revision = args.hub_revision or "main"
        try:
            pushed = hub.push_run(
                run.folder,
                args.hub_model_id,
                private=args.hub_private_repo,
                revision=revision,
                removes_checkpoints=args.hub_strategy == "checkpoint",
            )
            hub.check_pushed(run.folder, pushed)
        except PipelineError as error:
            logger.warning("%s", Run(run.folder))  # the results, which the error would hide
            command = f"push --model {run.folder} --hub_model_id {args.hub_model_id}"
            raise PipelineError(f"{error}\nthe run in {run.folder} is finished: push it with `{command}`") from error
        logger.info("pushed to %s", pushed.url)
    return Run(run.folder)
