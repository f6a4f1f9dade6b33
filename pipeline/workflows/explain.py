"""`explain`: a saved model and images -> pictures of what it looked at, and a table with their trust numbers."""

import logging
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import config, distributed, watchdog
from pipeline.arguments.verbs import ExplainArguments
from pipeline.config import CommandLine
from pipeline.config.names import as_path, class_problems
from pipeline.data.bad_images import describe_skipped
from pipeline.errors import PipelineError, raise_problems
from pipeline.evaluation.explanations.explain import Explainer, Explanation
from pipeline.evaluation.explanations.methods import find_legrad
from pipeline.evaluation.explanations.walk import walk
from pipeline.models import prediction
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions, stream_inference
from pipeline.reporting.explanation import tour
from pipeline.reporting.explanation.picture import draw
from pipeline.runs.files import atomic_write, check_writable, write_text
from pipeline.runs.table_file import growing_table

logger = logging.getLogger(__name__)

ARGUMENTS = (ExplainArguments,)

TABLE = "explanations.csv"
COLUMNS = {
    "file": "string", "class": "string", "target": "string", "probability": "double", "deletion": "double",
    "insertion": "double", "random_deletion": "double", "random_insertion": "double", "trusted": "bool",
    "picture": "string",
}  # fmt: skip
"""Of the table: one row for each map. `target` is `predicted` or `named`."""

Row = tuple[Any, ...]


def explain(
    model: str | Path, images: str | Path | Iterable[str | Path] = (), *, output: str | Path, **flags: Any
) -> pd.DataFrame:
    """Draw what a model looked at in each image, and compare each relevance map with random maps.

    Args:
        model: Run folder or Hub id.
        images: Files, folders (with all images below them) or glob patterns. May be empty with `tour`.
        output: New folder for the pictures, `explanations.csv`, and `tour.html` with `tour`.
        flags: The flags of `vit-pipeline explain --help` by their names, with Python values.

    Returns:
        The table: one row for each map, with `file`, `class`, `target` (predicted or named), `probability`, the areas
        under the deletion and insertion curves of the map and of random maps, `trusted`, and `picture`.

    Raises:
        PipelineError: If the model cannot be loaded or explained, a class is unknown, the folder cannot be written, or
            an image cannot be read (after all others are explained; not with `bad_images="skip"`).
    """
    sources = [images] if isinstance(images, str | Path) else list(images)
    line = config.checked_call("explain", None, {"model": model, "output": output} | flags, sources)
    (args,) = config.parse(line, ARGUMENTS)
    return pd.DataFrame(_explain(args, [str(source) for source in sources]), columns=list(COLUMNS))


def run(line: CommandLine) -> str:
    """Run the verb, and return what was written as text."""
    with distributed.fail_together():
        args, images = config.parse(line, ARGUMENTS, positional="images")
    rows = _explain(args, images)
    trusted = [row[list(COLUMNS).index("trusted")] for row in rows]
    page = f"; the tour: {Path(str(args.output)) / tour.PAGE}" if args.tour else ""
    verdict = f", {trusted.count(True)} better than random maps" if args.random_maps else ""
    return f"{len(rows)} relevance map{'s' * (len(rows) != 1)}{verdict}: {Path(str(args.output)) / TABLE}{page}"


@watchdog.must_progress()
def _explain(args: ExplainArguments, images: Sequence[str]) -> list[Row]:
    """Write the files of each batch as soon as it is explained, and report unreadable images at the end."""
    folder = as_path(str(args.output))
    with distributed.fail_together():
        distributed.on_main_process(lambda: check_writable(folder))
        named = prediction.find_images([*images, *([args.tour] if args.tour else [])])
        named = list(dict(named).items())  # the image of the tour may be one of the others
        classifier = ImageClassifier.load(str(args.model), revision=args.model_revision)
        explainer = Explainer(classifier, named=_named_class(args, classifier), random_maps=args.random_maps)
        page = _tour_page(args, classifier) if args.tour else None
        distributed.on_main_process(lambda: folder.mkdir(parents=True, exist_ok=True))
    writes = distributed.is_main_process()
    problems: list[str] = []
    written: list[Row] = []

    def explain_batch(batch: dict[str, Any]) -> tuple[list[Explanation], list[str]]:
        return explainer.explain_batch(batch), [problem for problem in batch["problems"] if problem is not None]

    options = LoaderOptions(args.batch_size, progress=sys.stderr.isatty())
    rows = prediction.ImageRows(named, classifier.processor, fail=False)
    with growing_table(folder / TABLE if writes else None, COLUMNS, flag="--output") as append:
        if page is not None:
            distributed.on_main_process(lambda: write_text(folder / tour.PAGE, page))
        for explanations, unreadable in stream_inference(
            classifier.model, rows, explain_batch, options, description="explain", collate_fn=prediction.collate_rows
        ):
            problems += unreadable
            for each in explanations:
                stem = _stem(len({row[-1] for row in written}) + 1, each.name)
                rows_of = _rows(each, classifier.class_names, f"{stem}.png")
                if writes:
                    _write(each, classifier.class_names, folder / stem, args, method=explainer.method.name)
                    append(rows_of)
                written += rows_of
    if problems:
        _report(problems, fail=args.bad_images == "fail" or not written)
    return written


def _report(problems: Sequence[str], *, fail: bool) -> None:
    """List the images that cannot be read, as an error or as a warning."""
    if not fail:
        logger.warning("%s", describe_skipped(problems))
        return
    listed = "\n  ".join(problems)
    remedy = "fix or remove them, or pass --bad_images skip"
    raise PipelineError(f"images that cannot be read, while all others are explained: {remedy}\n  {listed}")


def _named_class(args: ExplainArguments, classifier: ImageClassifier) -> int | None:
    if args.class_name is None:
        return None
    names = classifier.class_names
    raise_problems(class_problems(args.class_name, names, model=str(args.model)))
    return names.index(args.class_name)


def _tour_page(args: ExplainArguments, classifier: ImageClassifier) -> str:
    """Return the page that follows one image through the network, which fails before the other images are explained."""
    method = find_legrad(classifier)
    ((name, _), *_) = named = prediction.find_images(str(args.tour))
    pixels = prediction.ImageRows(named, classifier.processor, fail=True).__getitems__([0])[0]["pixel_values"]
    return tour.render(walk(classifier, method, pixels, layer=args.layer, head=args.head), name=Path(str(name)).name)


def _stem(number: int, name: str) -> str:
    """Return a file name that is unique in the folder and valid everywhere, such as `00012-rose`."""
    return f"{number:05d}-{re.sub(r'[^A-Za-z0-9_-]+', '-', Path(name).stem)[:60].strip('-') or 'image'}"


def _rows(explanation: Explanation, class_names: Sequence[str], picture: str) -> list[Row]:
    """Return the rows of the table for one image, in the order of `COLUMNS`."""
    rows: list[Row] = []
    for each in explanation.maps:
        numbers: tuple[Any, ...] = (None, None, None, None, None)
        if (trust := each.trust) is not None:
            areas = (trust.deletion, trust.insertion, trust.random_deletion, trust.random_insertion)
            numbers = (*(round(area, 4) for area in areas), trust.trusted)
        target = "predicted" if each.is_predicted else "named"
        name = class_names[each.number]
        rows.append((explanation.name, name, target, round(each.probability, 6), *numbers, picture))
    return rows


def _write(
    explanation: Explanation, class_names: Sequence[str], stem: Path, args: ExplainArguments, *, method: str
) -> None:
    """Write the picture of an image and, with `--arrays`, its arrays."""
    with atomic_write(stem.with_suffix(".png")) as temporary:
        draw(explanation, class_names, method=method).save(temporary, "PNG")
    if not args.arrays:
        return
    arrays: dict[str, Any] = {
        "pixels": explanation.pixels,
        "relevance": np.stack([each.relevance for each in explanation.maps]),
        "classes": np.array([class_names[each.number] for each in explanation.maps]),
    }
    if explanation.attention is not None:
        arrays["attention"] = explanation.attention
    with atomic_write(stem.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
