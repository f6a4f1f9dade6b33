"""`train`: arguments -> data -> model -> fit -> saved files -> scores of the saved files -> card -> push."""

import dataclasses
import logging
from pathlib import Path

import datasets

from pipeline import config, hub, runs
from pipeline.config import CommandLine, DataArguments, ModelArguments
from pipeline.data import sources
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.classifier import Classifier
from pipeline.models.backbone import build_model, save_artefact
from pipeline.reporting import card, summary
from pipeline.training.arguments import FineTuningArguments
from pipeline.training.trainer import fit

logger = logging.getLogger(__name__)

ARGUMENTS = (ModelArguments, DataArguments, FineTuningArguments)


def run(line: CommandLine) -> str:
    """Fine-tune, keep the best on validation, score what was saved on validation and once on test.

    The same command goes on with an unfinished run and shows the results of a finished one.

    Returns:
        The results, as text.

    Raises:
        PipelineError: If anything is wrong that the user can mend; found before the run folder is made.
        Terminated: If SIGTERM came; a checkpoint was written.
    """
    model_args, data_args, args = config.parse(line, ARGUMENTS)
    arguments = dataclasses.asdict(model_args) | dataclasses.asdict(data_args) | args.resolved()
    run = _claim(line, arguments, args)
    if run.finished:
        return _finish(run, args, "was finished before")
    logger.info("%s", args.describe())

    splits = sources.load_splits(data_args)
    data = _describe(splits, data_args)
    runs.claim(run.folder, arguments=arguments, fingerprint=str(data["fingerprint"]))
    class_names = splits["train"].features["label"].names
    processor, model = build_model(model_args, class_names=class_names, seed=args.seed)
    runs.start(run, arguments=arguments, data=data, machine=args.machine())

    with run.timed("train"):
        figures = fit(model, processor, splits, folder=run.folder, args=args)
    save_artefact(model, processor, run.folder)

    with run.timed("score"):
        _score(run, splits, figures, args)
    card.write(run.folder)
    run.update(status="finished")
    return _finish(run, args, "is finished")


def _claim(line: CommandLine, arguments: dict[str, object], args: FineTuningArguments) -> runs.Run:
    """Find the run's folder, and refuse what would fail only after the training."""
    name = arguments["dataset_name"]
    if name is None:
        raise PipelineError("which images? --dataset_name FOLDER, a Hub id or synthetic-flowers; or --config RECIPE")
    if args.world_size > 1:
        raise PipelineError(f"{args.world_size} processes were started, and a run takes one so far: --num_processes 1")
    default = runs.default_folder(recipe=line.recipe, dataset=str(name), seed=args.seed)
    run = runs.claim(Path(args.output_dir or default), arguments=arguments)
    if args.push_to_hub and args.hub_model_id:
        hub.check_may_push(args.hub_model_id)
    return run


def _describe(splits: datasets.DatasetDict, args: DataArguments) -> dict[str, object]:
    return {
        "name": runs.scrub(str(args.dataset_name)),
        "revision": args.dataset_revision,
        "fingerprint": sources.fingerprint(splits),
        "classes": len(splits["train"].features["label"].names),
        "samples": {name: len(split) for name, split in splits.items()},
    }


def _score(run: runs.Run, splits: datasets.DatasetDict, figures: dict[str, float], args: FineTuningArguments) -> None:
    """Score the saved files on validation and, once, on test; write predictions and figures."""
    classifier = Classifier.load(str(run.folder))
    predictions = [
        scoring.score(
            classifier,
            splits[name],
            name=name,
            batch_size=args.per_device_eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
        )
        for name in ("validation", "test")
        if name in splits
    ]
    scoring.write_predictions(run.folder / runs.PREDICTIONS, predictions, classifier.class_names)
    results = figures | scoring.all_figures(predictions, classifier.class_names)
    runs.write_json(run.folder / runs.RESULTS, results)


def _finish(run: runs.Run, args: FineTuningArguments, state: str) -> str:
    """Push if asked; the results and where they are."""
    lines = [summary.table(runs.read_json(run.folder / runs.RESULTS)), f"{run.folder} {state}"]
    if args.push_to_hub and args.hub_model_id:
        card.write(run.folder, repo_id=args.hub_model_id)
        address = hub.push_run(
            run.folder, args.hub_model_id, private=args.hub_private_repo, revision=args.hub_revision or "main"
        )
        lines.append(f"pushed to {address}")
    return "\n".join(lines)
