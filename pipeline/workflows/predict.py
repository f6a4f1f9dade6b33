"""`predict`: a saved model and files, folders or glob patterns -> ranked labels, as a table or a file."""

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import config, distributed
from pipeline.arguments.verbs import PredictArguments
from pipeline.config import CommandLine
from pipeline.data import class_names
from pipeline.data.bad_images import describe_skipped
from pipeline.errors import PipelineError
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.models.prediction import Ranked, find_images, ranked_table
from pipeline.runs.table_file import Append, growing_table

logger = logging.getLogger(__name__)

ARGUMENTS = (PredictArguments,)

WRITERS = (".csv", ".jsonl", ".parquet")
"""Extensions of `--output`."""
_COLUMNS = {"image": "string", "rank": "int64", "label": "string", "probability": "double"}
_ERROR_COLUMNS = {"image": "string", "reason": "string"}


def predict(model: str | Path, images: str | Path | Iterable[str | Path], **flags: Any) -> pd.DataFrame:
    """Return the most likely classes of images. `load(model).predict(images)` also takes images in memory.

    Args:
        model: Run folder or Hub id.
        images: Files, folders (with all images below them) or glob patterns.
        flags: The flags of `vit-pipeline predict --help` by their names, with Python values.

    Returns:
        One row for each image and rank: `image` (its path), `rank` (from 1), `label`, `probability`.

    Raises:
        PipelineError: If the model cannot be loaded, no image is found or can be read, or a file cannot be written.
    """
    sources = [images] if isinstance(images, str | Path) else list(images)
    line = config.read_call("predict", None, {"model": model} | flags)
    config.check(line, sources)
    (args,) = config.parse(line, ARGUMENTS)
    tables: list[pd.DataFrame] = []
    _predict(args, [str(source) for source in sources], keep=tables.append)
    return pd.concat(tables, ignore_index=True)


def run(line: CommandLine) -> str:
    """Run the verb, and return a table as text, or the name of the file."""
    with distributed.fail_together():
        args, images = config.parse(line, ARGUMENTS, positional="images")
    if args.output is None:
        tables: list[pd.DataFrame] = []
        _predict(args, images, keep=tables.append)
        return _as_text(pd.concat(tables))
    num_images, num_rows = _predict(args, images, keep=lambda table: None)  # noqa: ARG005
    return f"{num_images} images, {num_rows} rows: {args.output}"


def _predict(
    args: PredictArguments, images: Sequence[str], *, keep: Callable[[pd.DataFrame], object]
) -> tuple[int, int]:
    """Write the table of each batch as soon as it is known, pass it to `keep`, and list the skipped images at the end.

    Returns:
        The number of readable images, and of rows.

    Raises:
        PipelineError: If the images, the model or a file cannot be used, or none of the images can be read.
    """
    problems: list[str] = []
    num_images = num_rows = 0
    # Both files are opened before the model is loaded, which can take minutes.
    with distributed.fail_together(), _open_table(args.output, _COLUMNS, flag="--output") as write:
        with _open_table(args.errors, _ERROR_COLUMNS, flag="--errors") as write_errors:
            named = find_images(images)
            distributed.require_same({"the images": [name for name, _ in named], "--top_k": args.top_k})
            classifier = ImageClassifier.load(str(args.model), revision=args.model_revision)
            if args.class_names is not None:
                classifier.rename_classes(class_names.rename_model(args.class_names, classifier.class_names))
            options = LoaderOptions(batch_size=32, progress=sys.stderr.isatty())
            for batch in classifier.rank_batches(named, options, top_k=args.top_k, fail=args.bad_images == "fail"):
                table = ranked_table([batch], classifier.class_names)
                table["probability"] = table["probability"].round(6)
                distributed.on_main_process(functools.partial(write, table))
                distributed.on_main_process(functools.partial(write_errors, _errors_table(batch)))
                problems += filter(None, batch.problems)
                num_images, num_rows = num_images + batch.problems.count(None), num_rows + len(table)
                if len(table):
                    keep(table)
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


def _errors_table(batch: Ranked) -> pd.DataFrame:
    """Return the images of a batch that cannot be read, with the reasons."""
    bad = [
        (name, problem.removeprefix(f"{name}: "))
        for name, problem in zip(*batch[:2], strict=True)
        if problem is not None
    ]
    return pd.DataFrame(bad, columns=list(_ERROR_COLUMNS))


def _as_text(table: pd.DataFrame) -> str:
    """Return one paragraph per image: its path, then one label and probability per line."""
    width = max(map(len, table["label"]))
    blocks = []
    for image, rows in table.groupby("image", sort=False):
        lines = [f"  {r.label:<{width}}  {100 * r.probability:6.2f}%" for r in rows.itertuples()]
        blocks.append("\n".join([str(image), *lines]))
    return "\n".join(blocks)
