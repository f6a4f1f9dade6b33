"""`predict`: a saved model and files, folders or glob patterns -> ranked labels, as a table or a file."""

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import config, distributed, watchdog
from pipeline.arguments.verbs import PredictArguments
from pipeline.config import CommandLine
from pipeline.data.bad_images import describe_skipped
from pipeline.data.labels.class_names import rename_model
from pipeline.errors import PipelineError, visible
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.models.prediction import COLUMNS, Ranked, find_images, rounded_rows
from pipeline.runs.table_file import Append, growing_table
from pipeline.workflows.watch import watch

logger = logging.getLogger(__name__)

ARGUMENTS = (PredictArguments,)

WRITERS = (".csv", ".jsonl", ".parquet")
"""Extensions of `--output`."""
_MAX_NAMES = 8  # of a prediction set on the terminal
_ERROR_TYPES = {"image": "string", "reason": "string"}
Rows = list[tuple[Any, ...]]


def predict(model: str | Path, images: str | Path | Iterable[str | Path], **flags: Any) -> pd.DataFrame:
    """Return the most likely classes of images. `load(model).predict(images)` also takes images in memory.

    Args:
        model: Run folder or Hub id.
        images: Files, folders (with all images below them) or glob patterns.
        flags: The flags of `vit-pipeline predict --help` by their names, with Python values.

    Returns:
        One row for each image and rank: `image` (its path), `rank` (from 1), `label`, `probability`; and, where the
        model stores them, `calibrated_probability`, `prediction_set` (a list of class names), `abstain` (the confidence
        is too low to answer) and `unknown` (the image is unlike the training images).

    Raises:
        PipelineError: If the model cannot be loaded, no image is found or can be read, or a file cannot be written.
    """
    sources = [images] if isinstance(images, str | Path) else list(images)
    line = config.checked_call("predict", None, {"model": model} | flags, sources)
    (args,) = config.parse(line, ARGUMENTS)
    if args.watch is not None:
        raise PipelineError("--watch runs until it is stopped: use `vit-pipeline predict --watch` on a command line")
    return _table(args, [str(source) for source in sources])


def run(line: CommandLine) -> str:
    """Run the verb, and return a table as text, or the name of the file."""
    with distributed.fail_together():
        args, images = config.parse(line, ARGUMENTS, positional="images")
    if args.watch is not None:
        watch(args)
    if args.output is None:
        return _as_text(_table(args, images))
    num_images, num_rows = _predict(args, images, dict(COLUMNS), keep=len)
    return f"{num_images} images, {num_rows} rows: {args.output}"


def _table(args: PredictArguments, images: Sequence[str]) -> pd.DataFrame:
    rows: Rows = []
    columns = dict(COLUMNS)
    _predict(args, images, columns, keep=rows.extend)
    return pd.DataFrame(rows, columns=list(columns))


@watchdog.must_progress()
def _predict(
    args: PredictArguments, images: Sequence[str], columns: dict[str, str], *, keep: Callable[[Rows], object]
) -> tuple[int, int]:
    """Write the rows of each batch as soon as they are known, pass them to `keep`, and list skipped images at the end.

    The columns of the model are added to `columns` as soon as it is loaded.

    Returns:
        The number of readable images, and of rows.

    Raises:
        PipelineError: If the images, the model or a file cannot be used, or none of the images can be read.
    """
    problems: list[str] = []
    num_images = num_rows = 0
    # Both files are opened before the model is loaded, which can take minutes.
    with distributed.fail_together(), _open_table(args.output, columns, flag="--output") as write:
        with _open_table(args.errors, _ERROR_TYPES, flag="--errors") as write_errors:
            named = find_images(images)
            distributed.require_same({"the images": [name for name, _ in named], "--top_k": args.top_k})
            classifier = ImageClassifier.load(str(args.model), revision=args.model_revision)
            if args.class_names is not None:
                classifier.rename_classes(rename_model(args.class_names, classifier.class_names))
            columns.update(classifier.columns)
            options = LoaderOptions(batch_size=32, progress=sys.stderr.isatty())
            for batch in classifier.rank_batches(named, options, top_k=args.top_k, fail=args.bad_images == "fail"):
                rows = rounded_rows(batch, classifier.class_names)
                distributed.on_main_process(functools.partial(write, rows))
                distributed.on_main_process(functools.partial(write_errors, _bad_of(batch)))
                keep(rows)
                problems += filter(None, batch.problems)
                num_images, num_rows = num_images + batch.problems.count(None), num_rows + len(rows)
        if not num_images:
            listed = "\n  ".join(problems)
            raise PipelineError(f"none of the images can be read, so pass other images:\n  {listed}")
    if problems:
        logger.warning("%s", describe_skipped(problems))
    return num_images, num_rows


def _open_table(path: str | None, columns: Mapping[str, str], *, flag: str) -> AbstractContextManager[Append]:
    """Return a table that the main process writes."""
    written = Path(path) if path is not None and distributed.is_main_process() else None
    return growing_table(written, columns, flag=flag)


def _bad_of(batch: Ranked) -> list[tuple[str | int, str]]:
    """Return the images of a batch that cannot be read, with the reasons."""
    return [
        (name, problem.removeprefix(f"{name}: "))
        for name, problem in zip(batch.names, batch.problems, strict=True)
        if problem is not None
    ]


def _as_text(table: pd.DataFrame) -> str:
    """Return one paragraph per image: its path, one label and probability per line, and what the model says of it."""
    table = table.assign(label=[visible(name) for name in table["label"]])  # a line break would look like another row
    width = max(map(len, table["label"]))
    blocks = []
    for image, rows in table.groupby("image", sort=False):
        lines = [f"  {r.label:<{width}}  {100 * r.probability:6.2f}%" for r in rows.itertuples()]
        calibrated = rows.get("calibrated_probability", rows["probability"])
        if not calibrated.equals(rows["probability"]):  # the temperature is not 1
            lines = [f"{line}   calibrated {100 * p:6.2f}%" for line, p in zip(lines, calibrated, strict=True)]
        blocks.append("\n".join([visible(str(image)), *lines, *_notes(rows.iloc[0])]))
    return "\n".join(blocks)


def _notes(row: "pd.Series[Any]") -> Iterator[str]:
    """Yield what the model says about an image, one line each."""
    if "prediction_set" in row:
        names = row["prediction_set"]
        more = f", and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        yield f"  prediction set: {', '.join(map(visible, names[:_MAX_NAMES]))}{more}"
    if row.get("abstain", False):
        yield "  abstain: the confidence is too low to answer"
    if row.get("unknown", False):
        yield "  unknown: the image is unlike the training images"
