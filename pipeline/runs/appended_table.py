"""A CSV file that several calls append to, and that says what was done: no item is written twice, and none in part."""

import contextlib
import csv
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.runs.table_file import csv_lines, harmless

_MAX_REMOVED = 1_000_000  # bytes of items that were written in part; more is another damage, such as a lost quote


@dataclass
class _Item:
    name: str
    start: int
    rows: int = 0


class AppendedTable:
    """Appends the rows of items to a CSV file whose first column names the item.

    Attributes:
        path: The file.
        done: The names of the items in the file, as cells of it.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, rows_per_item: int, flag: str) -> None:
        """Open or create the file, and remove the last item from it if that was written in part.

        Args:
            path: The file.
            columns: Names of the columns.
            rows_per_item: Number of rows of each item.
            flag: The flag that sets the path, for the errors.

        Raises:
            PipelineError: If the file cannot be written, holds another table, or another command writes it.
        """
        self.path, self.flag, self.done = path, flag, set[str]()
        with self._explain():
            self._file = os.fdopen(
                os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0
            )  # unbuffered: a kill loses nothing
        try:
            with self._explain():
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._continue(list(columns), rows_per_item)
        except BaseException:
            self._file.close()
            raise

    def __contains__(self, name: str) -> bool:
        return harmless(name) in self.done

    def append(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write the rows of complete items to the disk.

        Raises:
            PipelineError: If they cannot be written. The file is then as it was before.
        """
        if not rows:
            return
        end = self._file.seek(0, os.SEEK_END)
        with self._explain():
            try:
                self._write(csv_lines(rows, safe=True))
            except OSError:
                self._file.truncate(end)
                raise
        self.done |= {harmless(row[0]) for row in rows}

    def close(self) -> None:
        """Close the file, and release it for other commands."""
        self._file.close()

    def _continue(self, columns: list[str], rows_per_item: int) -> None:
        """Read the items of the file, remove the last one if it lacks rows, and write the header of a new file.

        Raises:
            PipelineError: If the file holds another table, or is damaged.
        """
        header, size, is_whole = list[str](), 0, True
        items = [_Item("", 0), _Item("", 0)]  # the last two
        with self._explain():
            for row, start, end, has_end in _rows(self._file):
                size, is_whole = end, has_end and (len(row) == len(columns) or not start)
                if not start:
                    header = row
                    continue
                if row[:1] != [items[-1].name]:
                    items = [items[-1], _Item("".join(row[:1]), start)]
                items[-1].rows += 1
                self.done.add(items[-1].name)
            is_cut = not is_whole and not self.done and ",".join(columns).startswith(",".join(header))
            if size and header != columns and not is_cut:
                raise PipelineError(f"{self.path} holds another table: choose another {self.flag}")
            # A row that is cut in its name can be of either item.
            partial = [item for item in items[is_whole:] if 0 < item.rows < rows_per_item]
            if not is_whole:
                partial.append(items[-1])
            if partial:
                size = self._remove(partial, size)
            if not size:
                self._write(csv_lines([columns]))

    def _remove(self, items: Sequence["_Item"], size: int) -> int:
        """Remove the last items from the file of this size, and return its new size.

        Raises:
            PipelineError: If that would remove more than an item.
        """
        start = items[0].start
        if size - start > _MAX_REMOVED:
            raise PipelineError(f"{self.path} is damaged after byte {start}: choose another {self.flag}")
        self.done -= {item.name for item in items}
        self._file.truncate(start)
        return start

    def _write(self, lines: str) -> None:
        data = lines.encode()
        self._file.seek(0, os.SEEK_END)
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError as error:
            raise PipelineError(
                f"another command is writing {self.path}: wait until it ends, or choose another {self.flag}"
            ) from error
        except OSError as error:
            raise PipelineError(
                f"cannot write {self.path} ({error.strerror or error}): free disk space, or choose another {self.flag}"
            ) from error


def _rows(file: Any) -> Iterator[tuple[list[str], int, int, bool]]:
    """Yield each row with the positions of its first byte and of the byte after it, and whether its line has an end."""
    start = position = 0
    ends = True

    def lines() -> Iterator[str]:
        nonlocal position, ends
        for line in file:
            position += len(line)
            ends = line.endswith(b"\n")
            yield line.decode(errors="replace")

    for row in csv.reader(lines()):
        yield row, start, position, ends
        start = position
