"""`evaluate`: a saved model and any labelled images -> figures, on the terminal or in a folder."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import datasets

from pipeline import config, distributed
from pipeline.arguments.data import DataArguments
from pipeline.arguments.verbs import EvaluateArguments
from pipeline.config import CommandLine
from pipeline.data import sources
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.predictions import write_predictions
from pipeline.models.classifier import ImageClassifier
from pipeline.reporting import summary
from pipeline.runs.files import check_writable, write_json
from pipeline.runs.folder import PREDICTIONS, RESULTS, RunFolder

ARGUMENTS = (EvaluateArguments, DataArguments)
BATCH_SIZE = 64


def run(line: CommandLine) -> str:
    """Score a run or a Hub model on one split; labels are aligned to the model's by name.

    Without `--dataset_name`, on the data that the run was trained with, as its recipe has them.

    Returns:
        The figures, as text.

    Raises:
        PipelineError: If the model or the data cannot be used, or the folder cannot be written.
    """
    with distributed.fail_together():
        args, data_args = config.parse(line, ARGUMENTS)
        if args.model is None:
            raise PipelineError("which model? --model RUN or a Hub id")
        distributed.all_gather(None, same=dataclasses.asdict(args) | dataclasses.asdict(data_args))
        data_args, wanted = _data_of(args, data_args)
        folder = Path(args.output_dir) if args.output_dir else None
        distributed.on_main_process(lambda: _require_free(folder))

        classifier = ImageClassifier.load(args.model, revision=args.model_revision)
        name, split = sources.load_split(data_args, split=wanted, class_names=classifier.class_names)
        distributed.all_gather(None, same={"the data": sources.fingerprint(datasets.DatasetDict({name: split}))})
    predictions = [
        scoring.score(classifier, split, name=name, batch_size=BATCH_SIZE, num_workers=0, progress=sys.stderr.isatty())
    ]
    figures = scoring.all_metrics(predictions, classifier.class_names)
    if folder is not None and distributed.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / PREDICTIONS, predictions, classifier.class_names)
        write_json(folder / RESULTS, figures)
    return summary.table(figures) + (f"\nfigures and predictions are in {folder}" if folder else "")


def _data_of(args: EvaluateArguments, data_args: DataArguments) -> tuple[DataArguments, str | None]:
    """The data and the split that were named; else those of the run: its test split, or its validation split."""
    if data_args.dataset_name is not None:
        return data_args, args.split
    run = RunFolder(Path(str(args.model)))
    if not run.record:
        raise PipelineError("which images? --dataset_name FOLDER or a Hub id")
    known = {f.name for f in dataclasses.fields(DataArguments)}
    recipe: dict[str, Any] = {key: value for key, value in run.arguments.items() if key in known}
    own = "test" if "test" in run.record["data"]["samples"] else "validation"
    return DataArguments(**recipe), args.split or own


def _require_free(folder: Path | None) -> None:
    """Refuse a folder for the figures that holds some already, least of all a run's own.

    Raises:
        PipelineError: If it holds figures, or cannot be written.
    """
    if folder is None:
        return
    if (folder / RESULTS).exists():
        raise PipelineError(f"{folder} holds figures already: choose another --output_dir")
    check_writable(folder)
