"""The end of the process, without the seconds that Python needs to free every object after torch was imported.

This module imports only the standard library, so that its handler is registered first, and therefore called last.
"""

import atexit
import contextlib
import os
import sys


class _Ending:
    """What happens after the last exit handler.

    Attributes:
        code: The exit code if the program ended by itself; None before, and after an error that nobody handled.
    """

    code: int | None = None


def end_quickly() -> None:
    """Make `leave` skip the freeing of objects. Exit handlers that are registered later are still called before."""
    atexit.register(_end_now)


def leave(code: int) -> None:
    """Exit with a code, after the threads and the exit handlers of this process.

    Raises:
        SystemExit: Always.
    """
    _Ending.code = code
    sys.exit(code)


def _end_now() -> None:
    if _Ending.code is None:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or a pipe that nobody reads
            stream.flush()
    os._exit(_Ending.code)
