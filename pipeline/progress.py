"""Progress bars: only the main process shows them, and only on a terminal."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import datasets
from datasets.utils.tqdm import are_progress_bars_disabled
from tqdm import tqdm

from pipeline.distributed import is_main_process

T = TypeVar("T")


@contextlib.contextmanager
def progress_on_terminal_only() -> Iterator[None]:
    """Hide the progress bars of `datasets` unless stderr is a terminal."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def progress_bar(iterable: Iterable[T], *, desc: str, unit: str, enabled: bool) -> Iterable[T]:
    """Return the iterable with a progress bar that only the main process shows.

    Args:
        iterable: What the bar counts. It may have a length.
        desc: Text in front of the bar.
        unit: Name of one item, such as `batch`.
        enabled: Whether the main process shows the bar.
    """
    return cast(
        Iterable[T], tqdm(iterable, desc=desc, unit=unit, disable=not (enabled and is_main_process()), leave=False)
    )
