"""CSV files that people open in a spreadsheet: no cell is run as a formula, and no cell hides a control character."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.runs.files import write_text

_FORMULA = re.compile(r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control and format characters, such as an escape or a direction mark


def harmless(text: str) -> str:
    r"""Return a text as a cell that a spreadsheet shows and never runs.

    Control characters are written as escapes, such as `\x1b`. A text that a spreadsheet would read as a formula gets
    an apostrophe in front. To find the text of a cell again, compare the cell with `harmless(text)`.
    """
    visible = "".join(_escaped(character) for character in text)
    return f"'{visible}" if _FORMULA.match(visible) else visible


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically, every text of it `harmless`.

    Raises:
        PipelineError: If the file cannot be written.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    write_text(path, lines.getvalue())


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
