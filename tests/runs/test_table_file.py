"""A table on disk grows by whole lines, and replaces the file only when it is complete."""

import contextlib
import csv
import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import PipelineError
from pipeline.runs.table_file import LIST, growing_table

COLUMNS = {"image": "string", "rank": "int64", "probability": "double"}
FIRST = [("a/ä 1.jpg", 1, 0.123457), ('b",\n.jpg', 2, 1.0)]
SECOND = [("", 3, 1e-6)]
READ = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
}


def table_of(rows: list[tuple[str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.mark.parametrize("extension", READ)
def test_every_format_holds_all_rows(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels{extension}"
    path.write_text("old")
    with growing_table(path, COLUMNS, flag="--output") as append:
        for rows in (FIRST, [], SECOND):
            append(rows)
        assert path.read_text() == "old"
    pd.testing.assert_frame_equal(READ[extension](path), table_of(FIRST + SECOND), check_dtype=False)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("extension", [".csv", ".parquet"])
def test_a_table_without_rows_has_its_columns(extension: str, tmp_path: Path) -> None:
    with growing_table(tmp_path / f"labels{extension}", COLUMNS, flag="--output"):
        pass
    table = READ[extension](tmp_path / f"labels{extension}")
    assert list(table.columns) == list(COLUMNS)
    assert table.empty


@pytest.mark.parametrize(
    ("extension", "partial"), [(".csv", ".csv"), (".jsonl", ".jsonl"), (".parquet", ".csv")], ids=lambda text: text
)
def test_an_interrupted_table_is_kept_and_named(
    extension: str, partial: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, kept = tmp_path / f"labels{extension}", tmp_path / f"labels{extension}.partial{partial}"
    with contextlib.suppress(KeyboardInterrupt), growing_table(path, COLUMNS, flag="--output") as append:
        append(FIRST)
        assert len(READ[partial](kept)) == 2  # before the file is closed
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [kept]
    pd.testing.assert_frame_equal(READ[partial](kept), table_of(FIRST), check_dtype=False)
    assert f"{path} is not complete; its first 2 rows are in {kept}" in caplog.text
    with growing_table(path, COLUMNS, flag="--output") as append:
        append(SECOND)
    assert f"replacing {kept}" in caplog.text
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_table_without_rows_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), growing_table(tmp_path / "a.csv", COLUMNS, flag="--output"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "full.csv.partial.csv").symlink_to("/dev/full")
    for name, reason in {
        "folder.csv": "it is a folder",
        "nowhere/a.csv": "No such file or directory",
        "full.csv": "No space left on device",
    }.items():
        with (
            pytest.raises(PipelineError, match=rf"cannot write .*{name} \({reason}\): .*choose another --errors"),
            growing_table(tmp_path / name, COLUMNS, flag="--errors"),
        ):
            raise AssertionError("the block must not start")


def test_a_disk_that_becomes_full_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.partial.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(PipelineError, match=r"No space left on device.*: free disk space"),
        growing_table(tmp_path / "a.jsonl", COLUMNS, flag="--output") as append,
    ):
        append(FIRST)


def test_without_a_path_nothing_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with growing_table(None, COLUMNS, flag="--output") as append:
        append(FIRST)
    assert not caplog.records
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
def test_columns_can_be_added_until_the_first_rows(tmp_path: Path, extension: str) -> None:
    path, columns = tmp_path / f"a{extension}", {"image": "string"}
    with growing_table(path, columns, flag="--output") as append:
        columns |= {"known": "bool", "names": LIST}
        append([("a,b.png", True, ["red", 'the "blue", ü'])])
        append([("c.png", False, [])])
    if extension == ".parquet":
        rows = pd.read_parquet(path)
    else:
        rows = pd.read_csv(path) if extension == ".csv" else pd.read_json(path, lines=True)
    decode = json.loads if extension == ".csv" else list
    assert list(rows.columns) == ["image", "known", "names"]
    assert rows["known"].tolist() == [True, False]
    assert [decode(value) for value in rows["names"]] == [["red", 'the "blue", ü'], []]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("rose", "rose"),
        ("=1+1", "'=1+1"),
        ("+49", "'+49"),
        ("-photo.jpg", "'-photo.jpg"),
        ("@eaDir/1.jpg", "'@eaDir/1.jpg"),
        (" \t=cmd|' /C calc'!A0", "' \t=cmd|' /C calc'!A0"),
        ("a=b", "a=b"),
        (-0.5, "-0.5"),
        (True, "True"),
        ("\x1b[31mred", "⟨U+001B⟩[31mred"),
        ("", ""),
    ],
)
def test_a_cell_of_a_csv_file_is_no_formula_and_no_command(cell: object, written: str, tmp_path: Path) -> None:
    columns = {"image": "string", "label": "string"}
    for extension in (".csv", ".jsonl", ".parquet"):
        with growing_table(tmp_path / f"t{extension}", columns, flag="--output") as append:
            append([["1.png", cell]])
    with (tmp_path / "t.csv").open(newline="") as stream:
        assert list(csv.reader(stream))[1] == ["1.png", written]
    assert json.loads((tmp_path / "t.jsonl").read_text())["label"] == cell
    if isinstance(cell, str) and cell:
        assert pd.read_parquet(tmp_path / "t.parquet")["label"].tolist() == [cell]
