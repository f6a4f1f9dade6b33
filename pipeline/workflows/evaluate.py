"""`evaluate`: a saved model and labeled images -> metrics, on the terminal or in a folder; or two models compared."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from pipeline import config, distributed, watchdog
from pipeline.arguments.data import DataArguments
from pipeline.arguments.verbs import NO_MODEL, EvaluateArguments
from pipeline.config import CommandLine
from pipeline.data import report, sources
from pipeline.data.bad_images import Skipped, describe_skipped
from pipeline.data.labels.class_names import rename_model_classes
from pipeline.data.labels.read import read_integers
from pipeline.data.of_run import data_of_run
from pipeline.errors import PipelineError
from pipeline.evaluation import comparison, scoring
from pipeline.evaluation.predictions import write_predictions
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.reporting import summary
from pipeline.runs.files import check_writable, remove_absolute_path, write_json
from pipeline.runs.folder import PREDICTIONS, RESULTS, RunFolder
from pipeline.runs.table_file import growing_table

ARGUMENTS = (EvaluateArguments, DataArguments)


def evaluate(model: str | Path, **flags: Any) -> dict[str, Any]:
    """Score a run or a Hub model on one split; labels are aligned to the classes of the model by name.

    Args:
        model: Run folder or Hub id.
        flags: The flags of `vit-pipeline evaluate --help` by their names, with Python values. Without `dataset_name`,
            the data of the run are scored.

    Returns:
        The metrics, as `all_results.json` stores them: `test_accuracy`, `test_accuracy_low`, ... With `against`, also
        `comparison`: `against` (the name of the other model), and the attributes of `comparison.Comparison`.

    Raises:
        PipelineError: If the model or the data cannot be used, or the output folder cannot be written.
    """
    return _evaluate(config.checked_call("evaluate", None, {"model": model} | flags))[0]


def run(line: CommandLine) -> str:
    """Run the verb, and return the metrics as text."""
    metrics, compared, folder, skipped = _evaluate(line)
    where = f"metrics and predictions are in {folder}" if folder else ""
    return "\n".join(filter(None, [summary.table(metrics), compared, where, describe_skipped(skipped)]))


def _evaluate(line: CommandLine) -> tuple[dict[str, Any], str, Path | None, Sequence[Skipped]]:
    """Return the metrics, the comparison as text, the output folder, and the skipped images."""
    with distributed.fail_together():
        args, data_args = config.parse(line, ARGUMENTS)
        if args.model is None:
            raise PipelineError(NO_MODEL)
        distributed.require_same(dataclasses.asdict(args) | dataclasses.asdict(data_args))
    with watchdog.must_progress(data_args.dataloader_timeout):
        return _score(args, data_args)


def _score(
    args: EvaluateArguments, data_args: DataArguments
) -> tuple[dict[str, Any], str, Path | None, Sequence[Skipped]]:
    with distributed.fail_together():
        names_model = data_args.dataset_name is not None  # a run already has the names that it was trained with
        data_args, wanted = _data_of(args, data_args)
        folder = Path(args.output_dir) if args.output_dir else None
        distributed.on_main_process(lambda: _require_free(folder))

        classifier = ImageClassifier.load(str(args.model), revision=args.model_revision)
        against = ImageClassifier.load(args.against) if args.against is not None else None
        own_names = classifier.class_names
        splits = sources.load_split(data_args, split=wanted, class_names=own_names, rename_model=names_model)
        ((name, split),) = splits.items()
        classifier.rename_classes(split.features["label"].names)
        if against is not None:
            _rename_second(against, dict(zip(own_names, classifier.class_names, strict=True)), split)
        distributed.require_same({"the data": report.fingerprint(splits)})
    options = LoaderOptions(progress=sys.stderr.isatty())
    scored = [
        scoring.score(model, split, options, name=name, dataset_name=data_args.dataset_name)
        for model in (classifier, against)
        if model is not None
    ]
    metrics = scoring.all_metrics(scored[:1], classifier.class_names, classifier.uncertainty)
    compared, discordant = "", list[list[str]]()
    if against is not None:
        result, discordant = comparison.compare(scored[0], scored[1], classifier.class_names, against.class_names)
        metrics["comparison"] = {"against": remove_absolute_path(str(args.against))} | dataclasses.asdict(result)
        compared = result.describe(str(args.model), str(args.against))
    if folder is not None and distributed.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / PREDICTIONS, scored[:1], classifier.class_names)
        if against is not None:
            with growing_table(folder / comparison.DISCORDANT, comparison.COLUMNS, flag="--output_dir") as append:
                append(discordant)
        write_json(folder / RESULTS, metrics)
    return metrics, compared, folder, splits.skipped


def _rename_second(against: ImageClassifier, new_names: Mapping[str, str], split: datasets.Dataset) -> None:
    """Rename the classes of the second model like those of the first one, and check that it has those of the images.

    Raises:
        PipelineError: If it lacks a class, or two of its classes get the same name.
    """
    against.rename_classes(rename_model_classes(against.class_names, new_names))
    names = split.features["label"].names
    comparison.require_classes((names[number] for number in np.unique(read_integers(split))), against.class_names)


def _data_of(args: EvaluateArguments, data_args: DataArguments) -> tuple[DataArguments, str | None]:
    """Return the data and the split that were named, or else those of the run: its test or its validation split."""
    if data_args.dataset_name is not None:
        return data_args, args.split
    data = data_of_run(str(args.model))
    samples = RunFolder(Path(str(args.model))).record["data"]["samples"]
    return data, args.split or ("test" if "test" in samples else "validation")


def _require_free(folder: Path | None) -> None:
    """Reject an output folder that already holds metrics, such as a run folder.

    Raises:
        PipelineError: If it holds metrics, or cannot be written.
    """
    if folder is None:
        return
    if (folder / RESULTS).exists():
        raise PipelineError(f"{folder} already holds metrics: choose another --output_dir")
    check_writable(folder)
