"""Text tables: read the rows of CSV and JSON files.

Owns the dialects of CSV (delimiter, header, empty lines) and the layouts of JSON. `columns` interprets the columns.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from pipeline.data.tables.files import JSON_REMEDY
from pipeline.errors import PipelineError, list_some
from pipeline.images.decode import IMAGE_EXTENSIONS

_DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line that names the delimiter
_MAX_LISTED = 3  # an error shows this many lines and counts the rest
_MAX_SHOWN = 60  # characters of a line in an error


def read_rows(file: Path) -> pa.Table:
    """Return the rows of a text table. Every column of a CSV file is text.

    Raises:
        PipelineError: If the file is not a valid table in UTF-8. The text names the lines.
    """
    format_name, read = _READERS[file.suffix.lower()]
    try:
        return read(file)
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if file.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        raise PipelineError(
            f"{file} is not a valid {format_name} table in UTF-8: {error}:\n"
            f"save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 {file.name} > new{file.suffix}"
        ) from error
    except (ValueError, OverflowError, RecursionError, csv.Error, pa.ArrowException) as error:
        reason = str(error).rstrip(".")
        raise PipelineError(
            f"{file} is not a valid {format_name} table in UTF-8: {reason}: correct the file"
        ) from error


def _read_csv(file: Path) -> pa.Table:
    header, rows = _parse_csv(file)
    names = [name.strip() or f"unnamed column {number}" for number, name in enumerate(header, start=1)]
    if any(Path(name).suffix.lower() in IMAGE_EXTENSIONS or _is_file(file.parent / name) for name in names):
        raise PipelineError(
            f"{file} has no header: add a first line with the names of its columns, such as image,label"
        )
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise PipelineError(
            f"{file}: several columns have the name {list_some(repeated)}: rename or remove all but one"
        )
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, cells, strict=True)})


def _parse_csv(file: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows, split at the delimiter under which all of them have the same number of fields.

    Raises:
        PipelineError: If there is no such delimiter. The text shows the lines with another number of fields.
    """
    problems: dict[str, int] = {}
    for delimiter in _possible_delimiters(file):
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
                rows = [row for row in reader if row and row != [""]]
        except csv.Error:
            problems[delimiter] = -1
            continue
        if rows and rows[0][0].lower() == "sep=":
            del rows[0]
        if not rows:
            raise ValueError("the file is empty")
        lengths = Counter(map(len, rows))
        if len(lengths) == 1:
            return rows[0], rows[1:]
        problems[delimiter] = lengths[len(rows[0])]
    delimiter = max(problems, key=lambda key: problems[key])
    raise PipelineError(f"{file}: {_describe_broken_lines(file, delimiter)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name of a column can be too long for a file name
        return False


def _possible_delimiters(file: Path) -> list[str]:
    """Return the delimiters that occur in the header, or the one that Excel wrote into the first line."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        header = next((line for line in stream if line.strip()), "")
    if not header:
        raise ValueError("the file is empty")
    if separator := _SEPARATOR_LINE.fullmatch(header):
        return [separator[1]]
    preferred = sorted(_DELIMITERS, key=lambda delimiter: delimiter != "\t") if file.suffix == ".tsv" else _DELIMITERS
    return [delimiter for delimiter in preferred if delimiter in header] or [","]


def _describe_broken_lines(file: Path, delimiter: str) -> str:
    records = list(_number_records(file, delimiter))
    expected = records[0][1]
    broken = [(line, count) for line, count in records if count != expected]
    with file.open(newline="", encoding="utf-8-sig") as stream:
        lines = list(stream)
    if expected < 0:
        return f"the header, {lines[records[0][0] - 1].strip()[:_MAX_SHOWN]!r}, has a quote without an end: correct it"
    shown = "; ".join(
        f"line {line} ({lines[line - 1].strip()[:_MAX_SHOWN]}) has {count if count >= 0 else 'a quote without an end'}"
        for line, count in broken[:_MAX_LISTED]
    )
    more = f"; and {len(broken) - _MAX_LISTED} more" if len(broken) > _MAX_LISTED else ""
    return (
        f"{len(broken)} of {len(records)} lines do not have {expected} fields separated by {delimiter!r} as the header "
        f"does: {shown}{more}\ncorrect these lines; write a field that contains {delimiter!r} in quotes, "
        f'such as "a{delimiter} b"'
    )


def _number_records(file: Path, delimiter: str) -> Iterator[tuple[int, int]]:
    """Yield the first line of each record and its number of fields, or -1 for an invalid quote."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
        line = 1
        try:
            for row in reader:
                if row and row != [""] and row[0].lower() != "sep=":
                    yield line, len(row)
                line = reader.line_num + 1
        except csv.Error:
            yield line, -1


def _read_json(file: Path) -> pa.Table:
    with file.open(encoding="utf-8-sig") as stream:
        if stream.read(4096).lstrip().startswith("{"):
            return _read_json_lines(file)
        stream.seek(0)
        rows: list[Any] = json.load(stream)
    if not all(isinstance(row, dict) for row in rows):
        raise PipelineError(f"{file} is not an array of objects: {JSON_REMEDY}")
    if rows and {"data", "annotations"} <= rows[0].keys():
        raise PipelineError(f"{file} is a full export of Label Studio: export the project as JSON-MIN or CSV instead")
    names = dict.fromkeys(name for row in rows for name in row)  # a row may lack a column
    return pa.table({name: _to_column(name, [row.get(name) for row in rows]) for name in names})


def _to_column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} has values of different types ({error})") from error


def _read_json_lines(file: Path) -> pa.Table:
    rows = pyarrow.json.read_json(file)
    rows.validate(full=True)  # Arrow does not check by default that text is valid UTF-8
    return rows


_READERS: dict[str, tuple[str, Callable[[Path], pa.Table]]] = {
    ".csv": ("CSV", _read_csv),
    ".tsv": ("TSV", _read_csv),
    ".jsonl": ("JSON lines", _read_json_lines),
    ".ndjson": ("JSON lines", _read_json_lines),
    ".json": ("JSON", _read_json),
}
