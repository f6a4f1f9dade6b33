"""`predict`: a saved model and files, folders or glob patterns -> ranked labels, as a table or a file."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import config, distributed
from pipeline.arguments.verbs import PredictArguments
from pipeline.config import CommandLine
from pipeline.data import class_names
from pipeline.models.classifier import ImageClassifier
from pipeline.models.prediction import find_images
from pipeline.runs.files import atomic_write

ARGUMENTS = (PredictArguments,)

WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True, force_ascii=False),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}


def predict(model: str | Path, images: str | Path | Iterable[str | Path], **flags: Any) -> pd.DataFrame:
    """Return the most likely classes of images. `load(model).predict(images)` also takes images in memory.

    Args:
        model: Run folder or Hub id.
        images: Files, folders (with all images below them) or glob patterns.
        flags: The flags of `vit-pipeline predict --help` by their names, with Python values.

    Returns:
        One row for each image and rank: `image` (its path), `rank` (from 1), `label`, `probability`.

    Raises:
        PipelineError: If the model cannot be loaded, no image is found, or an image cannot be read (unless skipped).
    """
    sources = [images] if isinstance(images, str | Path) else list(images)
    line = config.read_call("predict", None, {"model": model} | flags)
    config.check(line, sources)
    (args,) = config.parse(line, ARGUMENTS)
    return _predict(args, [str(source) for source in sources])


def run(line: CommandLine) -> str:
    """Run the verb, and return a table as text, or the name of the file."""
    with distributed.fail_together():
        args, images = config.parse(line, ARGUMENTS, positional="images")
    table = _predict(args, images)
    if args.output is None:
        return _as_text(table)
    return f"{table['image'].nunique()} images, {len(table)} rows: {args.output}"


def _predict(args: PredictArguments, images: Sequence[str]) -> pd.DataFrame:
    with distributed.fail_together():
        paths = [str(path) for _, path in find_images(images)]
        distributed.require_same({"the images": paths, "--top_k": args.top_k})
        classifier = ImageClassifier.load(str(args.model), revision=args.model_revision)
        if args.class_names is not None:
            classifier.rename_classes(class_names.rename_model(args.class_names, classifier.class_names))
    progress = sys.stderr.isatty()
    table = classifier.predict(paths, top_k=args.top_k, bad_images=args.bad_images, progress=progress)
    table["probability"] = table["probability"].round(6)
    if args.output is not None:
        path = Path(args.output)
        distributed.on_main_process(lambda: _write(table, path))
    return table


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as temporary:
        WRITERS[path.suffix](table, temporary)


def _as_text(table: pd.DataFrame) -> str:
    """Return one paragraph per image: its path, then one label and probability per line."""
    if table.empty:
        return "no image could be read"
    width = max(map(len, table["label"]))
    blocks = []
    for image, rows in table.groupby("image", sort=False):
        lines = [f"  {r.label:<{width}}  {100 * r.probability:6.2f}%" for r in rows.itertuples()]
        blocks.append("\n".join([str(image), *lines]))
    return "\n".join(blocks)
