"""Progress: bars on a terminal, and now and then a line in a log. Only the main process shows it."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

import datasets
from datasets.utils.tqdm import are_progress_bars_disabled
from tqdm import tqdm

from pipeline.distributed import is_main_process

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SECONDS_ON_TERMINAL = 1.0  # between two states of the line that overwrites itself
_SECONDS_IN_LOG = 10.0


@contextlib.contextmanager
def progress_on_terminal_only() -> Iterator[None]:
    """Hide the progress bars of `datasets` unless stderr is a terminal."""
    with contextlib.nullcontext() if sys.stderr.isatty() else hide_library_bars():
        yield


@contextlib.contextmanager
def hide_library_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets`."""
    if are_progress_bars_disabled():
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


@contextlib.contextmanager
def show_life(describe: Callable[[], str]) -> Iterator[None]:
    """Show what the block is doing: every second in one line of a terminal, or every 10 seconds in the log.

    A block that takes a few seconds shows nothing. A thread does it, so that a block that waits for a slow disk or for
    other processes is shown too.

    Args:
        describe: Returns what is being done, for example `listing photos: 3000 images`. The thread calls it.
    """
    if not is_main_process():
        yield
        return
    finished = threading.Event()
    show = _show_on_terminal if sys.stderr.isatty() else _show_in_log
    thread = threading.Thread(target=show, args=(describe, finished), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _show_in_log(describe: Callable[[], str], finished: threading.Event) -> None:
    while not finished.wait(_SECONDS_IN_LOG):
        logger.info("%s", describe())


def _show_on_terminal(describe: Callable[[], str], finished: threading.Event) -> None:
    if finished.wait(3 * _SECONDS_ON_TERMINAL):
        return
    with tqdm(bar_format="{desc}", leave=False) as line:
        while True:
            line.set_description_str(describe())
            if finished.wait(_SECONDS_ON_TERMINAL):
                return
