"""A table that is written while it is computed: whole lines in a partial file, then the complete file."""

import contextlib
import csv
import errno
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import PipelineError, visible
from pipeline.runs.files import atomic_write

logger = logging.getLogger(__name__)


_FORMULA = tuple("=+-@")
LIST = "list"
"""The type of a column whose values are lists of texts. In a CSV file they are JSON."""


class Append(Protocol):
    """Writes rows at the end of a table."""

    def __call__(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write the rows and give them to the operating system, so that they survive a kill of this process."""


@contextlib.contextmanager
def growing_table(path: Path | None, columns: Mapping[str, str], *, flag: str) -> Iterator[Append]:
    """Yield a function that writes rows. At the end, replace `path` by the complete table.

    Until then the rows are in a file next to it, in whole lines: JSON lines for .jsonl, and CSV for .csv and .parquet,
    because a Parquet file can be read only when it is complete. If the block fails, that file stays and is named, and
    `path` is unchanged.

    Args:
        path: A .csv, .jsonl or .parquet file. None: nothing is written.
        columns: The type of each column in a Parquet file, as Arrow names it, or `LIST`. It is read again when the
            first rows are written, so columns that are known later can be added until then.
        flag: The flag that sets the path, for the errors.

    Raises:
        PipelineError: If a file cannot be written.
    """
    if path is None:
        yield lambda rows: None  # noqa: ARG005
        return
    table = _TableFile(path, columns, flag=flag)
    try:
        table.write_header()
        yield table.append
        table.finish()
    finally:
        table.close()


def harmless(cell: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet runs as a formula and no terminal as a command.

    A text that begins with =, +, - or @ gets an apostrophe in front, as spreadsheets write such a text, and control
    characters become their numbers. Numbers are not changed.
    """
    if not isinstance(cell, str):
        return cell
    text = visible(cell, keep="\n\t")
    return f"'{text}" if text.lstrip()[:1] in _FORMULA and text.strip() else text


class _TableFile:
    def __init__(self, path: Path, columns: Mapping[str, str], *, flag: str) -> None:
        self.path, self.columns, self.flag = path, columns, flag
        self.as_json = path.suffix == ".jsonl"
        self.partial = path.with_name(f"{path.name}.partial{'.jsonl' if self.as_json else '.csv'}")
        self.num_rows, self.complete, self.header = 0, False, list[str]()
        with self._explain():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            if self.partial.exists():
                logger.warning("replacing %s, which an interrupted command wrote", self.partial)
            self.file = self.partial.open("wb", buffering=0)

    def write_header(self) -> None:
        """Write the names of the columns, in place of those that were written before the first row."""
        if self.as_json or self.num_rows or self.header == [*self.columns]:
            return
        if self.header:
            with self._explain():
                self.file.seek(0)
                self.file.truncate()
        self.header = [*self.columns]
        self._write(csv_lines([self.header]))

    def append(self, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        self.write_header()
        if self.as_json:
            objects = (dict(zip(self.columns, row, strict=True)) for row in rows)
            self._write("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in objects))
        else:
            self._write(csv_lines(rows, safe=self.path.suffix == ".csv"))
        self.num_rows += len(rows)

    def _write(self, lines: str) -> None:
        """Write lines in one system call, so that a kill does not cut a line."""
        data = lines.encode()
        with self._explain():
            if self.file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def finish(self) -> None:
        self.write_header()
        with self._explain():
            os.fsync(self.file.fileno())
            if self.path.suffix == ".parquet":
                with atomic_write(self.path) as temporary:
                    self._write_parquet(temporary)
                self.partial.unlink()
            else:
                self.partial.replace(self.path)
        self.complete = True

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which `append` has reported
            self.file.close()
        if self.complete:
            return
        if self.num_rows:
            logger.warning("%s is not complete; its first %d rows are in %s", self.path, self.num_rows, self.partial)
        else:
            self.partial.unlink(missing_ok=True)

    def _write_parquet(self, path: Path) -> None:
        """Convert the CSV file block by block, so that memory does not grow with the table."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv
        from pyarrow import parquet

        lists = [place for place, alias in enumerate(self.columns.values()) if alias == LIST]
        texts = {name: "string" if alias == LIST else alias for name, alias in self.columns.items()}
        schema = pa.schema([(name, pa.type_for_alias(alias)) for name, alias in texts.items()])
        written = schema
        for place in lists:
            written = written.set(place, pa.field(schema.field(place).name, pa.list_(pa.string())))
        reader = arrow_csv.open_csv(
            self.partial,
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(column_types=schema),
        )
        with parquet.ParquetWriter(path, written) as writer:
            for batch in reader:
                arrays = batch.columns
                for place in lists:
                    values = [json.loads(text) for text in arrays[place].to_pylist()]
                    arrays[place] = pa.array(values, written.field(place).type)
                writer.write_batch(pa.record_batch(arrays, schema=written))

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PipelineError(
                f"cannot write {self.path} ({error.strerror or error}): free disk space, or choose another {self.flag}"
            ) from error


def csv_lines(rows: Sequence[Sequence[Any]], *, safe: bool = False) -> str:
    """Return rows as CSV, with lists as JSON and, if asked for, cells that are `harmless`."""
    lines = io.StringIO()
    texts = ([json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in row] for row in rows)
    if safe:
        texts = ([harmless(cell) for cell in row] for row in texts)
    csv.writer(lines, lineterminator="\n").writerows(texts)
    return lines.getvalue()
