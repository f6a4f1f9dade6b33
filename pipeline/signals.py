"""Signals that ask this program to stop: Ctrl-C, a closed terminal, or a batch system that needs the machine.

SIGINT, SIGTERM, SIGHUP and SIGUSR1 (the warning that Slurm can send) mean the same. The exit code is 128 + number. This
module imports only the standard library, so that it can be used before anything else is loaded.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
RESUME = "repeat the command; a training resumes from its last checkpoint"

# A terminal signals a launcher and its ranks, and the launcher then signals the ranks again.
_SECONDS_OF_ONE_REQUEST = 1.0


class Stopped(KeyboardInterrupt):
    """A signal asked to stop. Like Ctrl-C, it passes through `except Exception`.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {RESUME}")
        self.number = number


class _Requests:
    """What happened in this process so far.

    Attributes:
        first: When the first signal arrived, or None.
        blocks: Number of `handled` blocks that are active.
        exits: Whether a second signal ends the process at once. Otherwise it raises `Stopped`.
    """

    first: float | None = None
    blocks = 0
    exits = False


def leave_at_once(number: int, frame: object = None) -> NoReturn:
    """End the process with one line. Files are written under temporary names, so none is left half-written."""
    del frame
    os.write(2, f"stopped at once by {signal.Signals(number).name}: {RESUME}\n".encode())
    os._exit(128 + number)


def leave_while_starting() -> None:
    """Until `raised` is used, end the process at once, because an interrupted import can fail in any way."""
    for number in _not_ignored():
        signal.signal(number, leave_at_once)


def ignore_while_ending() -> None:
    """Ignore all signals from now on, because Python kills a process that gets one while it ends: a wrong exit code."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise `Stopped` when a signal arrives in the block; a second signal ends the process at once.

    Use it only in a process that runs one command.
    """
    _Requests.exits = True
    _forget()
    try:
        with handled(_raise):
            yield
    finally:
        _Requests.exits = False


@contextlib.contextmanager
def handled(first: Callable[[int], object]) -> Iterator[None]:
    """Call a function when the first signal arrives in the block; restore the previous handlers afterwards.

    Signals that this process was started to ignore (`nohup`) stay ignored. Processes that are forked in the block leave
    the decision to this one: they ignore all signals except SIGTERM. In a thread other than the main one, nothing is
    handled, because Python does not support it.

    Args:
        first: Gets the number of the signal. It is not called again in this block or in a block around it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        del frame
        _escalate(number, first)

    previous = {number: signal.signal(number, handle) for number in _not_ignored()}
    _Requests.blocks += 1
    try:
        yield
    finally:
        _Requests.blocks -= 1
        is_ending = _Requests.exits and not _Requests.blocks and _Requests.first is not None
        if not is_ending:  # otherwise the launcher may repeat its signal while this process ends
            for number, handler in previous.items():
                signal.signal(number, handler or signal.SIG_DFL)
            if not _Requests.blocks:
                _forget()


def owns_process() -> bool:
    """Return whether this process runs one command only, so that it may be ended."""
    return _Requests.exits


def keep_working(worker: int = 0) -> None:
    """Make a data worker ignore all signals except SIGTERM of the main process.

    A terminal and Slurm signal every process, but the main process still needs batches to finish its step. The worker
    ends when the main process ends, because the loader of torch watches it.
    """
    del worker
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _leave_decision_to_parent() -> None:
    """Make a process that was forked in a `handled` block ignore all signals except SIGTERM.

    SIGTERM gets its default action, not a handler: Python calls a handler between two instructions, so a worker of a
    pool that begins to wait for work just when the pool is terminated would never call it.
    """
    if _Requests.blocks:
        for number in _not_ignored():
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


os.register_at_fork(after_in_child=_leave_decision_to_parent)


def _obey(parent: int) -> None:
    while True:
        received = signal.sigwaitinfo(STOPPING)
        if received.si_signo == signal.SIGTERM and received.si_pid == parent:
            os._exit(0)


def _escalate(number: int, first: Callable[[int], object]) -> None:
    now = time.monotonic()
    if _Requests.first is None:
        _Requests.first = now
        first(number)
    elif now - _Requests.first > _SECONDS_OF_ONE_REQUEST:
        (leave_at_once if _Requests.exits or not _Requests.blocks else _raise)(number)


def _forget() -> None:
    _Requests.first = None


def _raise(number: int) -> NoReturn:
    raise Stopped(number)


def _not_ignored() -> list[signal.Signals]:
    return [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
