"""A table that several calls append to: complete items only, each once, by one command at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.runs.appended_table import AppendedTable

COLUMNS = ["image", "rank", "label"]
A, B = [["a.png", 1, "red"], ["a.png", 2, "blue"]], [["=b.png", 1, "two\nlines"], ["=b.png", 2, "blue"]]


def opened(path: Path) -> AppendedTable:
    return AppendedTable(path, COLUMNS, rows_per_item=2, flag="--output")


def test_items_of_all_calls_are_in_one_table(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    table = opened(path)
    assert "a.png" not in table
    table.append(A)
    table.append([])
    table.close()
    table = opened(path)
    assert "a.png" in table
    assert "=b.png" not in table
    table.append(B)
    assert "=b.png" in table
    table.close()
    text = "image,rank,label\na.png,1,red\na.png,2,blue\n'=b.png,1,\"two\nlines\"\n'=b.png,2,blue\n"
    assert path.read_text() == text
    table = opened(path)
    assert table.done == {"a.png", "'=b.png"}
    table.close()


def test_an_item_that_was_written_in_part_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    table = opened(path)
    table.append(A)
    one = path.read_bytes()
    table.append(B)
    table.close()
    both = path.read_bytes()
    for length in range(len(both)):
        path.write_bytes(both[:length])
        table = opened(path)
        header = len(b"image,rank,label\n")
        expected = one if length >= len(one) else one[:header]
        assert path.read_bytes() == expected, both[:length]
        assert table.done == ({"a.png"} if length >= len(one) else set())
        table.append(B)
        assert path.read_bytes() == expected + both[len(one) :]
        table.close()


@pytest.mark.parametrize("text", ["image,label\na.png,red\n", "no table", "image,rank,label,unknown\n", "\n"])
def test_another_table_is_refused_and_not_changed(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(PipelineError, match=r"labels\.csv holds another table: choose another --output"):
        opened(path)
    assert path.read_text() == text


def test_a_table_that_another_command_writes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    table = opened(path)
    script = (
        "import sys; from pathlib import Path; from pipeline.runs.appended_table import AppendedTable\n"
        "AppendedTable(Path(sys.argv[1]), ['image', 'rank', 'label'], rows_per_item=2, flag='--output')"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert "another command is writing" in done.stderr
    table.close()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"cannot write .*: free disk space, or choose another --output"):
        opened(tmp_path / "none" / "labels.csv")
