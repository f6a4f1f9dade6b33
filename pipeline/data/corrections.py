"""What the user corrects in the data: rows to drop (`--drop_list`) and rows with another label (`--relabel`)."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import xxhash

from pipeline.arguments.data import DataArguments
from pipeline.data.labels.read import read_integers
from pipeline.data.row_ids import names_and_rows
from pipeline.data.splits import Integers, canonical_split
from pipeline.data.tables.files import EXTENSIONS
from pipeline.data.tables.text import read_rows
from pipeline.errors import PipelineError, did_you_mean, list_some, raise_problems
from pipeline.runs.files import dataset_folder
from pipeline.runs.spreadsheet import harmless

logger = logging.getLogger(__name__)

DROP, RELABEL = "drop", "relabel"
"""What the column `action` of a table may say. An empty cell means that the row stays as it is."""

ROW_COLUMNS = ("file", "row", "id", "path", "image", "file_name", "filename")
LABEL_COLUMNS = ("new_label", "likely_label", "label")


@dataclass(frozen=True)
class Correction:
    """One line of a file of the user.

    Attributes:
        split: The split of the row.
        row: Its file or number, as the line has it.
        label: Its new label, None if the row is dropped.
    """

    split: str
    row: str
    label: str | None = None


Changes = Mapping[str, Mapping[int, int | None]]
"""Split -> row number in the source split -> the new class, or None for a row that is dropped."""


def read_corrections(args: DataArguments) -> dict[str, list[Correction]]:
    """Read the files of `--drop_list` and `--relabel`, by flag. Flags without a file are missing.

    Raises:
        PipelineError: If a file is not a table with the needed columns, or corrects no row.
    """
    found = {}
    if args.drop_list is not None:
        found["--drop_list"] = _read(Path(args.drop_list).expanduser(), flag="--drop_list", action=DROP)
    if args.relabel is not None:
        found["--relabel"] = _read(Path(args.relabel).expanduser(), flag="--relabel", action=RELABEL)
    return found


def find_changes(
    splits: Mapping[str, datasets.Dataset],
    corrections: Mapping[str, list[Correction]],
    dataset_name: str | None,
    *,
    starts: Mapping[str, int] | None = None,
) -> Changes:
    """Return the rows that the corrections name.

    Args:
        splits: All rows with `image`, `label` and `index`.
        corrections: From `read_corrections`.
        dataset_name: The dataset, for the ids of the rows.
        starts: The `index` of the first row of each split, if it is not 0.

    Raises:
        PipelineError: If a row or a class is not found, or is corrected in two ways. The text lists all of them.
    """
    changes: dict[str, dict[int, int | None]] = defaultdict(dict)
    if not any(corrections.values()):
        return changes
    starts = starts or {}
    finders = {name: _Finder(split, name, dataset_name, starts.get(name, 0)) for name, split in splits.items()}
    problems = []
    for flag, lines in corrections.items():
        unknown, classes = [], dict[str, str]()
        for line in lines:
            finder = finders.get(line.split)
            row = finder.find(line.row) if finder else None
            if finder is None or row is None:
                unknown.append(line)
                continue
            label = finder.classes.get(line.label) if line.label is not None else None
            if line.label is not None and label is None:
                classes[line.label] = did_you_mean(line.label, finder.classes)
            elif changes[line.split].setdefault(row, label) != label:
                problems.append(
                    f"{flag}: {line.split} {line.row!r} is corrected in two ways: remove all lines of it except one"
                )
        if unknown:
            problems.append(_not_found(flag, unknown, finders))
        problems += [f"{flag}: unknown class {name!r}{near}: correct the name" for name, near in classes.items()]
    raise_problems(problems)
    return changes


def apply_changes(splits: Mapping[str, datasets.Dataset], changes: Changes) -> dict[str, datasets.Dataset]:
    """Return the splits without the dropped rows and with the new labels, and log how many rows they are.

    Raises:
        PipelineError: If train loses a class that another split has, or a split loses all its rows.
    """
    corrected = dict(splits)
    for name, of_split in changes.items():
        split = splits.get(name)
        if split is None or not of_split:
            continue
        index, labels = read_integers(split, "index"), read_integers(split)
        kept = np.array([of_split.get(row, 0) is not None for row in index.tolist()])
        new = np.array(
            [of_split.get(row, label) for row, label in zip(index.tolist(), labels.tolist(), strict=True)], dtype=object
        )
        new = np.where(kept, new, labels).astype(np.int64)
        dropped, relabeled = int((~kept).sum()), int((new != labels).sum())
        if relabeled:
            split = _with_labels(split, new)
            logger.warning("--relabel: changing the label of %d of %d rows of %s", relabeled, len(labels), name)
        if dropped:
            split = split.select(np.flatnonzero(kept))
            logger.warning("--drop_list: dropping %d of %d rows of %s", dropped, len(labels), name)
        corrected[name] = split
    raise_problems(_lost(splits, corrected))
    return corrected


def _lost(before: Mapping[str, datasets.Dataset], after: Mapping[str, datasets.Dataset]) -> Iterator[str]:
    for name, split in after.items():
        if not len(split) and len(before[name]):
            yield f"--drop_list drops all {len(before[name])} rows of {name}: drop fewer rows"
    if "train" not in after:
        return
    names, left = after["train"].features["label"].names, set(read_integers(after["train"]).tolist())
    gone = set(read_integers(before["train"]).tolist()) - left
    for name, split in after.items():
        if lost := sorted(gone & set(read_integers(split).tolist())):
            listed = list_some([names[label] for label in lost])
            yield f"train has no image of {listed} after --drop_list and --relabel, but {name} has: keep at least one"


def _with_labels(split: datasets.Dataset, labels: Integers) -> datasets.Dataset:
    """Return the rows with other labels. Images are not copied, as `add_column` would do for a selection of rows."""
    column = split.data.column("label").to_numpy().copy()
    column[slice(None) if split._indices is None else split._indices.column(0).to_numpy()] = labels
    feature = datasets.Features(label=split.features["label"])
    images = datasets.Dataset(split.data, info=split.info, fingerprint=split._fingerprint).remove_columns("label")
    joined = datasets.concatenate_datasets([images, datasets.Dataset.from_dict({"label": column}, feature)], axis=1)
    key = xxhash.xxh3_64_hexdigest(split._fingerprint.encode() + column.tobytes())
    rows = datasets.Dataset(joined.data, info=joined.info, indices_table=split._indices, fingerprint=key)
    return rows.select_columns(split.column_names)


class _Finder:
    """Finds the rows of a split by what a line of the user names."""

    def __init__(self, split: datasets.Dataset, name: str, dataset_name: str | None, start: int) -> None:
        self.name, self._folder = name, dataset_folder(dataset_name) + "/"
        self.classes: dict[str, int] = {}
        for number, label in enumerate(split.features["label"].names):
            for text in (harmless(label), label):
                self.classes[text] = number
        self._rows = defaultdict[str, set[int]](set)
        for path, row in zip(*names_and_rows(split, dataset_name), strict=True):
            for text in (path, f"{row - start}/{path}") if path else (str(row - start),):
                self._rows[text].add(row)
                self._rows[harmless(text)].add(row)

    def find(self, text: str) -> int | None:
        """Return the row of a path or a number, or None if none or several rows match."""
        rows = self._rows.get(text.removeprefix(self._folder), set())
        return next(iter(rows)) if len(rows) == 1 else None

    def explain(self, text: str, others: Mapping[str, "_Finder"]) -> str:
        """Return why a row is not found, with what is similar."""
        if len(self._rows.get(text, ())) > 1:
            return f"{text!r} names several rows: write the row number in front, such as {min(self._rows[text])}/{text}"
        if elsewhere := [other.name for other in others.values() if other is not self and other.find(text) is not None]:
            return f"{text!r} is in {' and '.join(elsewhere)}: add the column split to the file"
        return f"{text!r}{did_you_mean(text, list(self._rows)[:20_000])}"


def _not_found(flag: str, lines: list[Correction], finders: Mapping[str, _Finder]) -> str:
    """Return one problem for all lines whose row is not found: the first ones are explained."""
    missing = sorted({line.split for line in lines} - finders.keys())
    if missing:
        return f"{flag} names rows of {', '.join(missing)}, which the data lack: use {', '.join(finders)}"
    explained = "; ".join(finders[line.split].explain(line.row, finders) for line in lines[:5])
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    where = ", ".join(dict.fromkeys(line.split for line in lines))
    return f"{flag}: {len(lines)} rows are not found in {where} ({explained}{more}): correct or remove these lines"


def _read(file: Path, *, flag: str, action: str) -> list[Correction]:
    """Return the corrections of a file: those lines of a table whose action is this one, or all lines."""
    if file.suffix.lower() not in EXTENSIONS:
        if action == RELABEL:
            raise PipelineError(f"{flag} {file.name} is not a table: pass a CSV file with the columns file and label")
        found = [Correction("train", line) for line in _lines(file, flag=flag) if line.strip()]
    else:
        found = list(_read_table(file, flag=flag, action=action))
    if not found:
        raise PipelineError(f"{flag} {file.name} names no row: add one, or remove {flag}")
    return found


def _lines(file: Path, *, flag: str) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{flag} {file} cannot be read ({error}): save it as text in UTF-8") from error


def _read_table(file: Path, *, flag: str, action: str) -> Iterator[Correction]:
    rows = [{str(key).strip(): value for key, value in row.items()} for row in read_rows(file).to_pylist()]
    columns = list(rows[0]) if rows else []
    row_column = _column(columns, ROW_COLUMNS)
    label_column = _column(columns, LABEL_COLUMNS)
    if rows and (row_column is None or (action == RELABEL and label_column is None)):
        needed = "file" if action == DROP else "file and label"
        raise PipelineError(f"{flag} {file.name} has the columns {', '.join(columns)}: name the columns {needed}")
    if "action" in columns:
        said = {str(row["action"] or "").strip() for row in rows}
        if wrong := sorted(said - {"", DROP, RELABEL}):
            raise PipelineError(
                f"{flag} {file.name} has the action {list_some(wrong)}: write {DROP} or {RELABEL} into the column "
                "action, or leave it empty"
            )
        rows = [row for row in rows if str(row["action"] or "").strip() == action]
        if not rows:
            raise PipelineError(
                f"{flag} {file.name} has no row with the action {action}: write {action} into the column action of "
                "each row that is meant"
            )
    for row in rows:
        yield _correction(
            row, str(row_column), label_column if action == RELABEL else None, where=f"{flag} {file.name}"
        )


def _correction(row: Mapping[str, object], row_column: str, label_column: str | None, *, where: str) -> Correction:
    name = "" if row[row_column] is None else str(row[row_column])
    split = str(row.get("split") or "train")
    if (known := canonical_split(split)) is None:
        raise PipelineError(f"{where} has the split {split!r}: use train, validation or test")
    if label_column is None:
        return Correction(known, name)
    label = "" if row[label_column] is None else str(row[label_column])
    if not label.strip():
        raise PipelineError(f"{where} has no new label for {name!r}: write it into the column {label_column}")
    return Correction(known, name, label)


def _column(columns: list[str], known: tuple[str, ...]) -> str | None:
    return next((name for name in known if name in columns), None)
