"""CSV files of every dialect and JSON files of every flat layout are read, and invalid ones raise an error."""

import json
from pathlib import Path

import pytest

from pipeline.data.tables.text import read_rows
from pipeline.errors import PipelineError

ROWS = [{"image": "1.jpg", "label": "rose, red"}, {"image": "2.jpg", "label": "aster"}]


@pytest.mark.parametrize(
    "text",
    [
        'image,label\n1.jpg,"rose, red"\n2.jpg,aster\n',
        "image;label\n1.jpg;rose, red\n2.jpg;aster",
        "sep=;\r\nimage;label\r\n1.jpg;rose, red\r\n2.jpg;aster\r\n",
        "image\tlabel\n1.jpg\trose, red\n2.jpg\taster\n",
        "image|label\n1.jpg|rose, red\n2.jpg|aster\n",
        '\ufeff image , label \n\n1.jpg, "rose, red"\n   \n2.jpg, aster\n\n\n',
        'image,label\r1.jpg,"rose, red"\r2.jpg,aster\r',
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_dialect_is_found(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_rows(tmp_path / name).to_pylist() == ROWS


def test_a_delimiter_in_a_column_name_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image;color|shade\n1.jpg;red\n")
    assert read_rows(tmp_path / "a.csv").column_names == ["image", "color|shade"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            'image,label\n"1.jpg","two\nlines"\n\n2.jpg,tabby, cat\n3.jpg\n',
            r"2 of 4 lines .* separated by ',' .*: line 5 \(2.jpg,tabby, cat\) has 3; line 6 \(3.jpg\) has 1\n",
        ),
        ('image,label\n1.jpg,"rose\n2.jpg,aster\n', r"line 2 \(1.jpg,\"rose\) has a quote without an end"),
        ("image,label,label\n1.jpg,a,b\n", "several columns have the name 'label': rename or remove"),
        ("1.jpg,rose\n2.jpg,aster\n", "has no header: add a first line"),
        ("\n\n", "the file is empty"),
        ('""\n', "the file is empty"),
        ("sep=;\n", "the file is empty"),
        ('\n"image,label\n1.jpg,a\n', r"the header, '\"image,label', has a quote without an end: correct it"),
    ],
)
def test_invalid_csv_files_raise_an_error(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(PipelineError, match=match):
        read_rows(tmp_path / "a.csv")


@pytest.mark.parametrize(("encoding", "name"), [("latin-1", "WINDOWS-1252"), ("utf-16", "UTF-16")])
def test_other_encodings_raise_an_error_with_the_command(encoding: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("image,label\nä.jpg,ü\n".encode(encoding))
    with pytest.raises(PipelineError, match=rf"iconv -f {name} -t UTF-8 a.csv > new.csv"):
        read_rows(tmp_path / "a.csv")


def test_columns_without_a_name_get_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",image,label,\n0,1.jpg,rose,\n")
    assert read_rows(tmp_path / "a.csv").column_names == ["unnamed column 1", "image", "label", "unnamed column 4"]


@pytest.mark.parametrize("text", [json.dumps(ROWS, indent=1), "\n".join(map(json.dumps, ROWS))])
def test_json_arrays_and_json_lines_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert read_rows(tmp_path / "a.json").to_pylist() == ROWS


def test_json_rows_may_lack_columns(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"image": "1.jpg"}, {"image": "2.jpg", "label": "rose"}]')
    assert read_rows(tmp_path / "a.json")["label"].to_pylist() == [None, "rose"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[{"id": 1, "data": {"image": "1.jpg"}, "annotations": []}]', "export the project as JSON-MIN or CSV"),
        ('[{"image": "1.jpg"}, 3]', "is not an array of objects: convert it"),
        (
            '[{"image": "1.jpg", "label": 1}, {"image": "2.jpg", "label": "a"}]',
            "column 'label' has values of different",
        ),
        ('[{"image": "1.jpg"', "is not a valid JSON table in UTF-8"),
        ('[{"image": "1.jpg", "label": 99999999999999999999}]', "is not a valid JSON table in UTF-8"),
        ('[{"image": ' + "[" * 100_000, "is not a valid JSON table in UTF-8"),
    ],
)
def test_invalid_json_files_raise_an_error(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PipelineError, match=match):
        read_rows(tmp_path / "a.json")


def test_a_column_name_can_be_longer_than_a_file_name(tmp_path: Path) -> None:
    question = "Which flower do you see? " * 20
    (tmp_path / "a.csv").write_text(f"image,{question}\n1.jpg,rose\n")
    assert read_rows(tmp_path / "a.csv").to_pylist() == [{"image": "1.jpg", question.strip(): "rose"}]
