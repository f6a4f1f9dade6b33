"""Helpers of the property tests: random folders and tables are written to disk, loaded, and compared with the result.

Set `VIT_PIPELINE_EXAMPLES=5000` to search for new faults: each test then tries this many random examples.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from pipeline.arguments.data import DataArguments
from pipeline.data.report import LoadedSplits, fingerprint
from pipeline.data.sources import load_splits
from pipeline.errors import PipelineError
from tests.data.conftest import label_names_of

EXAMPLES = int(os.environ.get("VIT_PIPELINE_EXAMPLES", "0"))
COUNTS = re.compile(
    r"ignoring (\d+) images (?:outside|that no table)"
    r"|skipping (\d+) of \d+ rows without a label"
    r"|test has no labels; its (\d+) images"
)


def examples(default: int) -> settings:
    return settings(
        max_examples=EXAMPLES or default,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink) if EXAMPLES else (Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder. It is the working directory at the end of its parents, so that relative names work."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent).resolve() / "photos"
        root.mkdir()
        try:
            yield root
        finally:
            os.chdir(before)


def load(root: Path, **arguments: Any) -> LoadedSplits | None:
    """Return the splits, or None if the data are refused with an error of our form."""
    try:
        splits = load_splits(DataArguments(dataset_name=str(root), **arguments))
    except PipelineError as error:
        text = str(error)
        assert re.search(
            r"--\w+|'|\b(splits?|train|validation)\b|\.(csv|tsv|jsonl?|parquet)|" + re.escape(root.name), text
        ), text
        assert ": " in text, text
        assert not re.search(r"Traceback|object at 0x|[^.]\.$", text), text
        return None
    assert all(len(split) for split in splits.values()), splits
    for note in splits.report.notes:
        note.encode()
    used = {name for split in splits.values() for name in label_names_of(split)}
    if not splits.skipped:
        assert used == set(splits["train"].features["label"].names)
    return splits


def counted(splits: LoadedSplits) -> int:
    """Return the number of images that the notes and the list of skipped images count."""
    numbers = [int(next(filter(None, match))) for note in splits.report.notes for match in COUNTS.findall(note)]
    return sum(numbers) + len(splits.skipped)


def rows_of(splits: LoadedSplits) -> list[tuple[str, str, str]]:
    """Return the split, the path and the label of each row."""
    return [
        (name, image["path"], label)
        for name, split in splits.items()
        for image, label in zip(split["image"], label_names_of(split), strict=True)
    ]


def assert_same_elsewhere(root: Path, splits: LoadedSplits, **arguments: Any) -> None:
    """Check that another spelling of the path, from another working directory, gives the same data and notes."""
    os.chdir(root.parent)
    again = load_splits(DataArguments(dataset_name=f"./{root.name}/../{root.name}", **arguments))
    assert fingerprint(again) == fingerprint(splits)
    os.chdir(root)
    here = load_splits(DataArguments(dataset_name=".", **arguments))
    assert fingerprint(here) == fingerprint(splits)
    assert len(here.report.notes) == len(splits.report.notes), (here.report.notes, splits.report.notes)
