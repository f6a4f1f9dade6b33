"""`predict`: a saved model and files, folders or globs -> ranked labels, as a table or a file."""

import glob
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pipeline import config, distributed
from pipeline.arguments.verbs import PredictArguments
from pipeline.config import CommandLine
from pipeline.data.folders import list_files
from pipeline.errors import BadImageError, PipelineError, refuse
from pipeline.images.decode import IMAGE_EXTENSIONS, open_image
from pipeline.models.classifier import ImageClassifier
from pipeline.runs.files import atomic_write

logger = logging.getLogger(__name__)

ARGUMENTS = (PredictArguments,)
BATCH_SIZE = 32

WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True, force_ascii=False),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}


def run(line: CommandLine) -> str:
    """Rank labels for every image.

    Returns:
        A table, or where the file is.

    Raises:
        PipelineError: If the model cannot be loaded, nothing is found, or an image cannot be read (unless skipped).
    """
    with distributed.fail_together():
        args, words = config.parse(line, ARGUMENTS, positional="images")
        refuse(_problems(args, words))
        paths = [path for word in words for path in find_images(word)]
        distributed.all_gather(None, same={"the images": paths, "--top_k": args.top_k})
        classifier = ImageClassifier.load(args.model, revision=args.model_revision)
        batches = list(_ranked(classifier, paths, top_k=args.top_k, bad_images=args.bad_images))
    table = pd.DataFrame(row for batch in distributed.all_gather_shards(batches) for row in batch)
    if args.output is None:
        return _as_text(table)
    distributed.on_main_process(lambda: _write(table, Path(args.output)))
    return f"{table['image'].nunique()} images, {len(table)} rows: {args.output}"


def find_images(word: str) -> list[Path]:
    """The image files that a file, a folder (with all below it) or a glob names, sorted.

    Raises:
        PipelineError: If there are none.
    """
    path = Path(word).expanduser()
    if path.is_dir():
        found = [p for p in list_files(path) if p.suffix.lower() in IMAGE_EXTENSIONS]
    else:
        found = [path] if path.is_file() else [p for p in map(Path, glob.glob(word, recursive=True)) if p.is_file()]  # noqa: PTH207 (a Path's glob refuses "..")
    if not found:
        raise PipelineError(f"no image at {word}: name a file, a folder with images below it, or a glob")
    return sorted(found)


def _problems(args: PredictArguments, words: Sequence[str]) -> Iterator[str]:
    if args.model is None:
        yield "which model? --model RUN or a Hub id"
    if not words:
        yield "which images? name files, folders or globs"
    if args.top_k < 1:
        yield f"--top_k {args.top_k}: it must be at least 1"
    if args.output is not None and Path(args.output).suffix not in WRITERS:
        yield f"--output {args.output}: the ending must be {', '.join(WRITERS)}"
    elif args.output is not None and not Path(args.output).absolute().parent.is_dir():
        yield f"--output {args.output}: there is no folder {Path(args.output).parent}"


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as temporary:
        WRITERS[path.suffix](table, temporary)


def _ranked(
    classifier: ImageClassifier, paths: Sequence[Path], *, top_k: int, bad_images: str
) -> Iterator[list[dict[str, Any]]]:
    """This process's batches, each as rows, one for an image and rank; a large folder needs no memory."""
    starts = distributed.shard(range(0, len(paths), BATCH_SIZE))
    silent = not (sys.stderr.isatty() and distributed.is_main_process())
    for start in tqdm(starts, desc="predict", unit="batch", disable=silent, leave=False):
        images = {}
        for path in paths[start : start + BATCH_SIZE]:
            try:
                images[path] = open_image(path, name=str(path))
            except BadImageError as error:
                if bad_images == "fail":
                    raise BadImageError(f"{error}\nmend or remove it, or pass --bad_images skip") from error
                logger.warning("left out: %s", error)
        ranked = classifier.rank(list(images.values()), top_k=top_k) if images else []
        yield [
            {"image": str(path), "rank": rank, "label": label, "probability": round(probability, 6)}
            for path, labels in zip(images, ranked, strict=True)
            for rank, (label, probability) in enumerate(labels, start=1)
        ]


def _as_text(table: pd.DataFrame) -> str:
    """One image a paragraph: its path, then label and probability a line."""
    if table.empty:
        return "no image could be read"
    width = max(map(len, table["label"]))
    blocks = []
    for image, rows in table.groupby("image", sort=False):
        lines = [f"  {r.label:<{width}}  {100 * r.probability:6.2f} %" for r in rows.itertuples()]
        blocks.append("\n".join([str(image), *lines]))
    return "\n".join(blocks)
