"""`train`: arguments -> data -> model -> fit -> saved files -> scores of the saved files -> card -> push."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel

from pipeline import config, distributed, hub
from pipeline.arguments.data import DataArguments
from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.strategy import AdaptationArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.config import CommandLine
from pipeline.data import sources, streaming
from pipeline.errors import PipelineError, refuse
from pipeline.evaluation import scoring
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.images.processor import ImageProcessor, input_size
from pipeline.models.build import build_model
from pipeline.models.checkpoint import save_model
from pipeline.models.classifier import ImageClassifier
from pipeline.performance.machine import keep_freed_memory
from pipeline.performance.throughput import Clock
from pipeline.probing import baseline
from pipeline.reporting import card, summary
from pipeline.runs.files import read_json, remove_absolute_path, write_json
from pipeline.runs.folder import PREDICTIONS, RESULTS, RunFolder, claim, default_folder, start
from pipeline.selection import auto, fixres, refit_head
from pipeline.training.compatibility import reject_unsupported
from pipeline.training.fit import fit

logger = logging.getLogger(__name__)

ARGUMENTS = (ModelArguments, DataArguments, AugmentationArguments, AdaptationArguments, FineTuningArguments)


def run(line: CommandLine) -> str:
    """Fine-tune, keep the best on validation, score what was saved on validation and once on test.

    The same command goes on with an unfinished run and shows the results of a finished one.

    Returns:
        The results, as text.

    Raises:
        PipelineError: If anything is wrong that the user can mend; found before the run folder is made.
        Terminated: If SIGTERM came; a checkpoint was written.
    """
    with distributed.fail_together():
        line, splits = _choose(line)
        model_args, data_args, augmentation, adaptation, args = config.parse(line, ARGUMENTS)
        settings = Settings(args, augmentation, adaptation, model_args)
        if data_args.streaming:
            unable = ", ".join(streaming.find_problems(data_args, model_args, augmentation, adaptation))
            refuse([f"{unable} and --streaming exclude each other: the one needs all images first"] if unable else [])
        arguments = _as_plain(model_args, data_args, augmentation, adaptation) | args.resolved() | {"recipe": "none"}
        distributed.all_gather(None, same=arguments)
        run = _claim(line, arguments, args)
    if run.finished:
        return _finish(run, args, "was finished before")
    logger.info("%s", args.describe())
    auto.warn_of_high_learning_rate(settings)

    with distributed.fail_together():
        splits = splits or sources.load_splits(data_args)
        data = _describe(splits, data_args)
        distributed.all_gather(None, same=data)
        distributed.on_main_process(
            lambda: claim(run.folder, arguments=arguments, fingerprint=str(data["fingerprint"]))
        )
        class_names = splits["train"].features["label"].names
        processor, model = build_model(model_args, class_names=class_names, seed=args.seed)
        reject_unsupported(model, processor, settings)
        distributed.on_main_process(lambda: start(run, arguments=arguments, data=data, machine=args.machine()))

    with run.timed("train"):
        figures = _train(model, processor, splits, run=run, settings=settings)
        if adaptation.fixres:
            figures["train_image_size"] = input_size(processor)[0]
            model, processor = fixres.find_test_size(model, processor, splits["validation"], **_loading(args))
        if adaptation.refit_head and adaptation.strategy != "head":  # which has fitted it so already
            figures |= refit_head.refit_head(model, processor, splits, args=args)
    distributed.on_main_process(lambda: save_model(model, processor, run.folder))

    with run.timed("score"):
        predictions = _score(run, splits, args)
    distributed.on_main_process(lambda: _write_results(run, predictions, class_names, figures))
    return _finish(run, args, "is finished")


def _choose(line: CommandLine) -> tuple[CommandLine, datasets.DatasetDict | None]:
    """Under `--recipe auto`, put what fits images, network and machine in front of the flags; the images are read."""
    model_args, data_args, _, adaptation, args = config.parse(line, ARGUMENTS)
    if adaptation.recipe == "none" or data_args.dataset_name is None:
        return line, None
    splits = sources.load_splits(data_args)
    facts = auto.gather(model_args, args, splits["train"])
    choices = distributed.all_gather(auto.choose(facts))[
        0
    ]  # rank 0's, whose machine may measure otherwise than another
    given = {config.flag_name(word) for word in (*line.recipe_flags, *line.flags) if word.startswith("--")}
    for choice in choices:
        logger.info("auto: %s%s", choice, " (overridden)" if choice.flag in given else "")
    return dataclasses.replace(line, recipe_flags=[*(choice.word for choice in choices), *line.recipe_flags]), splits


def _train(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: datasets.DatasetDict,
    *,
    run: RunFolder,
    settings: Settings,
) -> dict[str, Any]:
    """Take the strategy: a probe in place of the training or before it, then the training itself."""
    clock, strategy, figures = Clock(), settings.adaptation.strategy, dict[str, Any]()
    keep_freed_memory()  # not before: what the making of the splits had needed would be kept as well
    takes_head = strategy == "head" or settings.model.head_init == "probe"
    if takes_head or settings.adaptation.baseline:
        figures = baseline.fit_baseline(model, processor, splits, args=settings.trainer, run=run, takes_head=takes_head)
    if strategy != "head":
        figures |= fit(model, processor, splits, folder=run.folder, settings=settings, clock=clock)
        if speed := figures.pop("speed", None):
            run.update(speed=speed)
    return figures


def _claim(line: CommandLine, arguments: dict[str, object], args: FineTuningArguments) -> RunFolder:
    """Find the run's folder, and refuse what would fail only after the training."""
    name = arguments["dataset_name"]
    if name is None:
        raise PipelineError("which images? --dataset_name FOLDER, a Hub id or synthetic-flowers; or --config RECIPE")
    default = default_folder(recipe=line.recipe, dataset=str(name), seed=args.seed)
    run = RunFolder(Path(args.output_dir or default), writes=distributed.is_main_process())
    distributed.on_main_process(lambda: claim(run.folder, arguments=arguments))
    distributed.all_gather(
        None, same={f"{run.folder}, which all machines must share,": run.record.get("status", "new")}
    )
    if args.push_to_hub and args.hub_model_id:
        hub_id = args.hub_model_id
        distributed.on_main_process(lambda: hub.check_may_push(hub_id))
    return run


def _as_plain(*groups: Any) -> dict[str, Any]:
    return {key: value for group in groups for key, value in dataclasses.asdict(group).items()}


def _describe(splits: datasets.DatasetDict, args: DataArguments) -> dict[str, object]:
    return {
        "name": remove_absolute_path(str(args.dataset_name)),
        "revision": args.dataset_revision,
        "fingerprint": sources.fingerprint(splits),
        "classes": len(splits["train"].features["label"].names),
        "samples": {name: len(split) for name, split in splits.items()},
    }


def _score(run: RunFolder, splits: datasets.DatasetDict, args: FineTuningArguments) -> list[Predictions]:
    """Score the saved files on validation and, once, on test."""
    classifier = ImageClassifier.load(str(run.folder))
    return [
        scoring.score(classifier, splits[name], name=name, **_loading(args))
        for name in ("validation", "test")
        if name in splits
    ]


def _loading(args: FineTuningArguments) -> dict[str, Any]:
    return {
        "batch_size": args.per_device_eval_batch_size,
        "num_workers": args.dataloader_num_workers,
        "progress": not args.disable_tqdm,
    }


def _write_results(
    run: RunFolder, predictions: Sequence[Predictions], class_names: Sequence[str], figures: dict[str, Any]
) -> None:
    write_predictions(run.folder / PREDICTIONS, predictions, class_names)
    write_json(run.folder / RESULTS, figures | scoring.all_metrics(predictions, class_names))
    card.write(run.folder)
    run.update(status="finished")


def _finish(run: RunFolder, args: FineTuningArguments, state: str) -> str:
    """Push if asked; the results and where they are."""
    lines = [summary.table(read_json(run.folder / RESULTS)), f"{run.folder} {state}"]
    if args.push_to_hub and args.hub_model_id and distributed.is_main_process():
        card.write(run.folder, repo_id=args.hub_model_id)
        address = hub.push_run(
            run.folder, args.hub_model_id, private=args.hub_private_repo, revision=args.hub_revision or "main"
        )
        lines.append(f"pushed to {address}")
    return "\n".join(lines)
