"""One writer for each run folder."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.runs.files import remove_stale_files

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, so that no other command writes into it.

    The operating system releases the lock when the process ends, however it ends. Temporary files of commands that were
    killed are removed. The folder is created, and is removed
    afterwards if nothing was written into it. A file system without locks is used without one.

    Raises:
        PipelineError: If another command holds the lock, or the folder cannot be written.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(folder / LOCK)
    except OSError as error:
        raise PipelineError(f"cannot write into {folder} ({error.strerror}): choose another --output_dir") from error
    try:
        remove_stale_files(folder)
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        for path in created:
            with contextlib.suppress(OSError):  # it holds files now
                path.rmdir()


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file.

    Raises:
        PipelineError: If another command holds the lock.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise PipelineError(
                f"another command is writing into {path.parent}: wait until it ends, or choose another --output_dir"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(descriptor)
                raise
        if _is_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # the last owner removed the file between the two calls


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
