"""Cells that a spreadsheet shows and never runs."""

import csv
from pathlib import Path

import pytest

from pipeline.runs.spreadsheet import harmless, write_csv


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("cat/1.jpg", "cat/1.jpg"),
        ("rose, white", "rose, white"),
        ("=1+1", "'=1+1"),
        ("+41", "'+41"),
        ("-rf", "'-rf"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("'=1", "''=1"),
        ("a=b", "a=b"),
        ("\t=1", "\\t=1"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("x\u202egpj.exe", "x\\u202egpj.exe"),
        ("Rosé 🌹", "Rosé 🌹"),
        ("", ""),
    ],
)
def test_formulas_get_an_apostrophe_and_control_characters_are_shown(text: str, cell: str) -> None:
    assert harmless(text) == cell


def test_a_table_keeps_numbers_and_quotes_texts(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["name", "score"], [['a "b", c', -0.5], ["=x", 1]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "score"], ['a "b", c', "-0.5"], ["'=x", "1"]]
