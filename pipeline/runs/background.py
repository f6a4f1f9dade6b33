"""Work that is done in a thread while the caller continues, one piece at a time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one piece of work at a time. What it raises is raised by the next call, so no error is lost."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._running: Future[object] | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Start a piece of work when the one before is done."""
        self.join()
        self._running = self._pool.submit(work)

    def join(self) -> None:
        """Wait for the work, and raise what it raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
