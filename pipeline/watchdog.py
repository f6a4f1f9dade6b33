"""Reading that hangs, on a dead network mount or in a stopped data worker, ends the command with one line.

Each process notes in shared memory which image it reads, or which folder it lists. In a `must_progress` block, a thread
of the main process looks at these notes, and at how long a batch is awaited. It counts seconds by its own looks, so
time in which the computer or the job is suspended does not count.
"""

import contextlib
import ctypes
import itertools
import mmap
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import Any

import psutil

from pipeline import signals
from pipeline.distributed import LostRankError
from pipeline.errors import PipelineError, explain_memory, presentable

SECONDS = 300.0
"""How long an image or a batch may take if a command does not have `--dataloader_timeout`."""

_LOOK = 1.0  # seconds between two looks
_SECONDS_TO_INTERRUPT = 1.0
_SECONDS_TO_END = 15.0  # until the block has ended after the workers were killed
_USER_ERROR = 2
_PR_SET_PDEATHSIG = 1
# Of each process that reads: its id, when it began to read an image or a folder (0: it reads none), and which.
_NOTE = struct.Struct("<qd240s")
_NUM_NOTES = 1024
_notes = mmap.mmap(-1, _NUM_NOTES * _NOTE.size)


class _Hung(BaseException):
    """Interrupts reading in the main thread. No reader of images catches it."""


class _Awaited:
    """The batch that this process waits for.

    Attributes:
        number: Its number, or 0.
    """

    number = 0
    numbers = itertools.count(1)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Note that this process reads an image, lists a folder, or asks for the status of a file in the block."""
    _write_note(time.monotonic(), name.encode(errors="backslashreplace")[-240:])
    try:
        yield
    finally:
        _write_note(0.0)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Note that this process waits for a batch of images in the block."""
    before, _Awaited.number = _Awaited.number, next(_Awaited.numbers)
    try:
        yield
    finally:
        _Awaited.number = before


def start_worker(worker: int = 0) -> None:
    """Set up a data worker, so that it can be ended if it hangs. It is a `worker_init_fn`.

    On Linux the worker ends with its parent, also while it is stopped or waits for a disk.
    """
    _write_note(0.0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    Queue._on_queue_feeder_error = staticmethod(_leave)  # type: ignore[attr-defined]
    signals.keep_working(worker)


def _leave(error: BaseException, batch: object) -> None:
    """End a data worker that cannot send a batch, because shared memory is full. By default it would be lost."""
    del batch
    try:
        os.write(2, f"data worker {os.getpid()} cannot send a batch: {' '.join(str(error).split())}\n".encode())
    finally:
        os._exit(1)


@contextlib.contextmanager
def must_progress(seconds: float | None = None) -> Iterator[None]:
    """End the block if reading one image takes too long, or if no image is read while a batch is awaited.

    The main thread is interrupted then, and the workers are killed. If that does not end the block, the process of a
    command line ends at once. Of nested blocks, only the inner one looks.

    Args:
        seconds: The value of `--dataloader_timeout`. None: the command does not have this flag.

    Raises:
        PipelineError: If memory runs out, or a data worker is killed.
        LostRankError: If reading hangs. It names the process, and the image if it is known. It is not exchanged with
            other ranks, because they may wait for this one by other means.
    """
    watch, outer = _Watch(seconds), _Watch.innermost
    handles = threading.current_thread() is threading.main_thread()  # Python runs handlers only there
    previous = signal.signal(signal.SIGALRM, watch.interrupt) if handles else None
    thread = threading.Thread(target=watch.run, kwargs={"interrupts": handles}, daemon=True)
    _Watch.innermost = watch
    thread.start()
    try:
        yield
    except BaseException as error:
        if watch.problem is None:
            if isinstance(error, PipelineError) or (explained := explain_memory(error)) is None:
                raise
            raise PipelineError(explained) from error
        traceback.clear_frames(error.__traceback__)  # which hold data loaders
        raise LostRankError(watch.problem) from error
    finally:
        watch.finished.set()
        thread.join()
        _Watch.innermost = outer
        if handles:
            signal.signal(signal.SIGALRM, previous or signal.SIG_DFL)
        if watch.of_children is not None:
            signal.signal(signal.SIGCHLD, watch.of_children)


class _Watch:
    """What the thread of a `must_progress` block knows.

    Attributes:
        innermost: That of the inner block.
        finished: Whether the block has ended.
        problem: The error, if reading hangs.
        of_children: The handler of SIGCHLD, while it is replaced.
    """

    innermost: "_Watch | None" = None

    def __init__(self, seconds: float | None) -> None:
        self.seconds = SECONDS if seconds is None else seconds
        self._remedy = "" if seconds is None else ", or raise --dataloader_timeout"
        self.finished = threading.Event()
        self.problem: str | None = None
        self.of_children: Any = None
        self._interrupted = threading.Event()
        self._ages: dict[tuple[int, float], float] = {}  # seconds, of the images that are being read
        self._awaited, self._waited = 0, 0.0  # the batch, and seconds without progress

    def interrupt(self, number: int, frame: object) -> None:
        """End reading in the main thread. It is a handler of SIGALRM."""
        del number, frame
        if self.problem is not None and not self.finished.is_set() and not self._interrupted.is_set():
            self.of_children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # that of torch raises another error
            self._interrupted.set()
            raise _Hung

    def run(self, *, interrupts: bool) -> None:
        """Look until the block has ended or reading hangs; then end the block.

        Args:
            interrupts: Whether the block runs in the main thread, which a signal interrupts.
        """
        pause = min(_LOOK, self.seconds / 4)
        while self.problem is None:
            if self.finished.wait(pause):
                return
            self.problem = self._look(pause) if self is _Watch.innermost else None
        if interrupts:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            self._interrupted.wait(_SECONDS_TO_INTERRUPT)
        for worker in _workers():
            worker.kill()  # also ends one that is stopped, for which its loader would wait
        if not self.finished.wait(_SECONDS_TO_END) and signals.owns_process():
            os.write(2, f"error: {presentable(self.problem)}\n".encode())
            os._exit(_USER_ERROR)

    def _look(self, pause: float) -> str | None:
        """Return the error if reading hangs.

        Args:
            pause: Seconds since the last look.
        """
        images = {(pid, start): image for pid, start, image in _NOTE.iter_unpack(_notes[:]) if start}
        stands_still = images.keys() == self._ages.keys() and _Awaited.number == self._awaited != 0
        self._waited = self._waited + pause if stands_still else 0.0
        self._ages = {image: self._ages.get(image, 0.0) + pause for image in images}
        self._awaited = _Awaited.number
        late = {pid: image for (pid, start), image in images.items() if self._ages[pid, start] >= self.seconds}
        if not late and self._waited < self.seconds:
            return None
        workers = {worker.pid: worker for worker in _workers()}
        for pid in late.keys() & {os.getpid(), *workers}:  # a note can be of a process that was killed
            image = late[pid].rstrip(b"\0").decode(errors="replace")
            who = "this process" if pid == os.getpid() else f"data worker {pid}"
            return self._explain(f"{who} has been reading {image}", f"check the disk or network mount of {image}")
        if self._waited < self.seconds:
            return None
        states = ", ".join(f"{worker.pid} ({worker.status()})" for worker in workers.values())
        source = f" from the data workers {states}" if states else ""
        return self._explain(f"no batch of images has arrived{source}", "check the disk or network mount")

    def _explain(self, problem: str, remedy: str) -> str:
        return f"{problem} for {self.seconds:g} s: {remedy}{self._remedy}; then repeat the command"


def _write_note(start: float, image: bytes = b"") -> None:
    pid = os.getpid()
    _NOTE.pack_into(_notes, pid % _NUM_NOTES * _NOTE.size, pid, start, image)


def _workers() -> list[psutil.Process]:
    """Return the children of this process that read images."""
    readers = {pid for pid, _, _ in _NOTE.iter_unpack(_notes[:])}
    children = (child for child in psutil.Process().children() if child.pid in readers)
    return [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
