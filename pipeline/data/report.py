"""What is reported of the splits of a dataset: their fingerprint, and what was decided while they were loaded."""

import contextlib
import dataclasses
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow.compute

from pipeline.config.names import as_path, is_hub_id
from pipeline.data.bad_images import CheckedSplits
from pipeline.data.labels.read import read_integers
from pipeline.data.streaming import Stream
from pipeline.errors import list_some
from pipeline.images.identity import status_of
from pipeline.progress import show_life
from pipeline.runs.files import remove_absolute_path

logger = logging.getLogger(__name__)
_CHUNK_ROWS = 1000  # rows that are converted to Python objects at once; limits memory


@dataclass(frozen=True)
class DataReport:
    """What was decided while a dataset was loaded.

    Attributes:
        source: The source type.
        image_column: The column with the images.
        label_column: The column with the labels.
        notes: One sentence for everything that was skipped, ignored, renamed or merged. Paths are relative to the
            dataset.
    """

    source: str
    image_column: str
    label_column: str
    notes: tuple[str, ...]


class LoadedSplits(CheckedSplits):
    """The splits of a dataset, with the report of how they were loaded."""

    report: DataReport

    @classmethod
    def of(cls, splits: CheckedSplits, report: DataReport) -> "LoadedSplits":
        """Return the splits with their report, and log a summary of them."""
        loaded = cls(splits)
        loaded.skipped, loaded.grayscale_bits, loaded.report = splits.skipped, splits.grayscale_bits, report
        names = loaded["train"].features["label"].names
        sizes = ", ".join(f"{len(split)} {name}" for name, split in loaded.items())
        logger.info("using %s images; %d classes: %s", sizes, len(names), list_some(names))
        return loaded


@contextlib.contextmanager
def collect_notes(dataset: str) -> Iterator[list[str]]:
    """Collect the warnings of this package that are logged in the block, without the path of the dataset."""
    notes: list[str] = []
    path = as_path(dataset)
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append(_shorten(record.getMessage(), path))  # type: ignore[method-assign]
    package = logging.getLogger(__package__)
    package.addHandler(handler)
    try:
        yield notes
    finally:
        package.removeHandler(handler)


def _shorten(text: str, dataset: Path) -> str:
    """Return a text without the path of the dataset and without absolute folders, because notes are published."""
    for path in (dataset.absolute(), dataset.resolve(), dataset):
        if len(path.parts) > 1:
            text = text.replace(f"{path}/", "").replace(str(path), path.name)
    return re.sub(r"(?<![\w./])(/[^\s/:;,'\"]+)+/", "", text)


def describe(splits: LoadedSplits, dataset_name: str | None, *, revision: str | None) -> dict[str, object]:
    """Return what `run.json` says about the data. No path of this machine is in it, because it is published."""
    folder = as_path(str(dataset_name)).absolute()
    skipped = [
        entry._replace(image=remove_absolute_path(entry.image.removeprefix(f"{folder}/")))._asdict()
        for entry in splits.skipped
    ]
    return {
        "name": remove_absolute_path(str(dataset_name)),
        "revision": revision if is_hub_id(str(dataset_name)) else None,  # other sources have no revisions
        "fingerprint": fingerprint(splits),
        "classes": len(splits["train"].features["label"].names),
        "samples": {name: len(split) for name, split in splits.items()},
        **({"skipped": skipped} if skipped else {}),
        **dataclasses.asdict(splits.report),
    }


def fingerprint(splits: datasets.DatasetDict) -> str:
    """Return a short hash of the split names, the class names, and each row's label, index, file name and file size.

    The hash does not depend on the folder of the files. It changes when an image is added, removed or relabeled, or
    when the size of a file changes. Pixels are not read.
    """
    digest = hashlib.sha256()
    num_rows = 0
    with show_life(lambda: f"computing the fingerprint of the data: {num_rows} images"):
        for split_name, split in splits.items():
            digest.update(repr((split_name, split.features["label"].names)).encode())
            if isinstance(split, Stream):
                digest.update(f"{split.identity} {len(split)}".encode())
                continue
            for column in ("label", "index"):
                digest.update(read_integers(split, column).astype("<i8").tobytes())
            for row, (name, size) in enumerate(_names_and_sizes(split)):  # hashed row by row to save memory
                digest.update((f"\n{name}\t{size}" if row else f"{name}\t{size}").encode())
                num_rows += 1
    return digest.hexdigest()[:16]


def _names_and_sizes(split: datasets.Dataset) -> Iterator[tuple[str, int]]:
    """Yield the file name of each image (empty if there is none) and its size in bytes."""
    values = split.data.column("image")
    paths = pyarrow.compute.struct_field(values, "path")
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(values, "bytes"))
    if split._indices is not None:
        # `datasets` has no public API that maps a selection to table rows without reading every image.
        selected = split._indices.column(0)
        paths, sizes = paths.take(selected), sizes.take(selected)
    for start in range(0, len(paths), _CHUNK_ROWS):
        chunk = (column.slice(start, _CHUNK_ROWS).to_pylist() for column in (paths, sizes))
        for path, size in zip(*chunk, strict=True):
            yield Path(path or "").name, status_of(path).st_size if size is None else size
