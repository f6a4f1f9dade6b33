"""`evaluate`: a saved model and any labelled images -> figures, on the terminal or in a folder."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import datasets

from pipeline import config, processes, runs
from pipeline.arguments import DataArguments, EvaluateArguments
from pipeline.config import CommandLine
from pipeline.data import sources
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.classifier import Classifier
from pipeline.reporting import summary

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
    with processes.agreement():
        args, data_args = config.parse(line, ARGUMENTS)
        if args.model is None:
            raise PipelineError("which model? --model RUN or a Hub id")
        processes.exchange(None, same=dataclasses.asdict(args) | dataclasses.asdict(data_args))
        data_args, wanted = _data_of(args, data_args)
        folder = Path(args.output_dir) if args.output_dir else None
        processes.by_main(lambda: _require_free(folder))

        classifier = Classifier.load(args.model, revision=args.model_revision)
        name, split = sources.load_split(data_args, split=wanted, class_names=classifier.class_names)
        processes.exchange(None, same={"the data": sources.fingerprint(datasets.DatasetDict({name: split}))})
    predictions = [
        scoring.score(classifier, split, name=name, batch_size=BATCH_SIZE, num_workers=0, progress=sys.stderr.isatty())
    ]
    figures = scoring.all_figures(predictions, classifier.class_names)
    if folder is not None and processes.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        scoring.write_predictions(folder / runs.PREDICTIONS, predictions, classifier.class_names)
        runs.write_json(folder / runs.RESULTS, figures)
    return summary.table(figures) + (f"\nfigures and predictions are in {folder}" if folder else "")


def _data_of(args: EvaluateArguments, data_args: DataArguments) -> tuple[DataArguments, str | None]:
    """The data and the split that were named; else those of the run: its test split, or its validation split."""
    if data_args.dataset_name is not None:
        return data_args, args.split
    run = runs.Run(Path(str(args.model)))
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
    if (folder / runs.RESULTS).exists():
        raise PipelineError(f"{folder} holds figures already: choose another --output_dir")
    runs.probe(folder)
