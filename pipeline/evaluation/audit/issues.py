"""`issues.csv`: what is probably wrong with the data, one line a row. `--drop_list` and `--relabel` read it."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.audit.duplicates import Duplicate
from pipeline.evaluation.audit.labels import Suspects
from pipeline.runs.spreadsheet import write_csv

LABEL, DUPLICATE, NEAR_DUPLICATE, LEAKAGE = "label", "duplicate", "near duplicate", "leakage"
"""The kinds of issues. Leakage is a duplicate, exact or near, of an image in an earlier split."""

MAX_SUSPECTS = 1000  # of a split
SHOWN_LABELS, SHOWN_PAIRS = 16, 16  # of a split; of all


@dataclass(frozen=True)
class Issue:
    """One line.

    Attributes:
        split: Split of the row.
        file: Its id, see `data.row_ids`.
        issue: One of the kinds.
        given_label: Name of its class.
        likely_label: Name of the class that is more likely, or of the image that it repeats; empty if it is the same.
        score: For a label, the fraction of the split that is less suspicious; for others, the similarity.
        reason: What was found.
        other_split: For a repeated image, the split of the earlier one.
        other_file: For a repeated image, the id of the earlier one.
        action: Empty. The user writes `drop` or `relabel`.
    """

    split: str
    file: str
    issue: str
    given_label: str
    likely_label: str
    score: float
    reason: str
    other_split: str = ""
    other_file: str = ""
    action: str = ""


COLUMNS = tuple(field.name for field in fields(Issue))


@dataclass(frozen=True)
class AuditedSplit:
    """Ids and labels of a split.

    Attributes:
        ids: The id of each row.
        labels: The name of the class of each row.
    """

    ids: Sequence[str]
    labels: Sequence[str]


def label_issues(name: str, split: AuditedSplit, suspects: Suspects, class_names: Sequence[str]) -> list[Issue]:
    """Return the lines of the suspicious labels of a split, most suspicious first."""
    columns = zip(suspects.rows, suspects.scores, suspects.likely, suspects.reasons, strict=True)
    return [
        Issue(name, split.ids[row], LABEL, split.labels[row], class_names[likely], score, reason)
        for row, score, likely, reason in list(columns)[:MAX_SUSPECTS]
    ]


def duplicate_issues(splits: Mapping[str, AuditedSplit], duplicates: Sequence[Duplicate]) -> list[Issue]:
    """Return the lines of the repeated images."""
    found = []
    for each in duplicates:
        (name, row), (other_name, other_row) = each.row, each.of
        split, other = splits[name], splits[other_name]
        given, label = split.labels[row], other.labels[other_row]
        kind = LEAKAGE if each.leaks else DUPLICATE if each.exact else NEAR_DUPLICATE
        what = "same pixels as" if each.exact else "near duplicate of"
        differs = f", which has the label {label}" if label != given else ""
        reason = f"{what} {other_name} {other.ids[other_row]}{differs}"
        likely = label if label != given else ""
        score = round(each.similarity, 4)
        found.append(Issue(name, split.ids[row], kind, given, likely, score, reason, other_name, other.ids[other_row]))
    return found


def shown_issues(issues: Sequence[Issue]) -> tuple[list[Issue], list[Issue]]:
    """Return the suspicious labels and the repeated images that the report shows.

    These are the most suspicious labels of each split, and leaked images before other repeated ones.
    """
    labels = [
        issue
        for name in dict.fromkeys(issue.split for issue in issues)
        for issue in [each for each in issues if each.split == name and each.issue == LABEL][:SHOWN_LABELS]
    ]
    repeated = sorted((each for each in issues if each.issue != LABEL), key=lambda each: each.issue != LEAKAGE)
    return labels, repeated[:SHOWN_PAIRS]


def write_issues(path: Path, issues: Sequence[Issue]) -> None:
    """Write the table. No cell of it is run by a spreadsheet.

    Raises:
        PipelineError: If the file cannot be written.
    """
    write_csv(path, COLUMNS, map(astuple, issues))


def read_issues(path: Path) -> list[Issue]:
    """Read the table, with cells as they are written.

    Raises:
        PipelineError: If the table lacks a column.
    """
    text = path.read_text(encoding="utf-8-sig")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # a spreadsheet may have saved it again
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    if rows and (lacking := [name for name in COLUMNS if name not in rows[0] or rows[0][name] is None]):
        raise PipelineError(f"{path} has no column {', '.join(lacking)}: write it again by training in a new folder")
    return [_issue(row) for row in rows]


def _issue(row: Mapping[str, str]) -> Issue:
    texts: dict[str, Any] = {name: row[name] for name in COLUMNS}
    return Issue(**texts | {"score": float(row["score"].replace(",", "."))})
