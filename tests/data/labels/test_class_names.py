"""The file of `--class_names` in every format renames, merges and keeps classes, and says what it did."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.labels.class_names import read_class_names, rename_model
from pipeline.data.labels.spelling import find_nearest, find_variants, say_similar
from pipeline.data.report import fingerprint
from pipeline.data.sources import load_split
from pipeline.errors import PipelineError
from tests.data.conftest import (
    TWO_CLASSES,
    class_names_of,
    label_names_of,
    load,
    png_bytes,
    save_class_folders,
    warnings_in,
    write_csv,
    write_parquet,
)

pytestmark = pytest.mark.usefixtures("empty_cache")


def new_names(file: Path, text: str, *labels: str) -> dict[str, str]:
    file.write_bytes(text.encode())
    return read_class_names(str(file)).new_names(dict.fromkeys(labels, 0))


@pytest.mark.parametrize(
    ("name", "text", "labels", "expected"),
    [
        ("names.txt", "n01 tabby, tabby cat\nn02 sea lion\n", ["n02", "n01"], ["sea lion", "tabby, tabby cat"]),
        ("names.txt", "n01\ttabby, tabby cat\r\nn02\tsea lion\r\n", ["n01"], ["tabby, tabby cat"]),
        ("names.csv", 'key,name\nn01,"tabby, tabby cat"\nn02,lion\n\n', ["n01"], ["tabby, tabby cat"]),
        ("names.csv", "\ufeffn01;tabby\nn02;lion\n", ["n01", "n02"], ["tabby", "lion"]),
        ("names.tsv", "n01\tsea lion\n", ["n01"], ["sea lion"]),
        ("names.json", '{"n01": "tabby", "n02": "sea lion"}', ["n02"], ["sea lion"]),
        ("names.json", '["tabby", "sea lion"]', ["1", "LABEL_0"], ["sea lion", "tabby"]),
        ("names.json", '{"id2label": {"0": "tabby", "1": "lion"}, "x": 1}', ["LABEL_1", "0"], ["lion", "tabby"]),
        ("names.json", '{"tabby": 0, "sea lion": 1}', ["1"], ["sea lion"]),
        ("names.json", '{"0": ["n01", "tabby"], "1": ["n02", "lion"]}', ["n02", "0"], ["lion", "tabby"]),
        ("names.txt", "tabby cat\nsea lion\n", ["0", "1"], ["tabby cat", "sea lion"]),
        ("names.txt", "tabby cat\nsea lion\n", ["LABEL_1", "sea lion"], ["sea lion", "sea lion"]),
        ("names.txt", "sea lion\nsea horse\n", ["sea horse"], ["sea horse"]),
        ("names.txt", "0 tabby\n1 sea lion\n", ["LABEL_1", "0"], ["sea lion", "tabby"]),
        ("names.txt", "tench, Tinca tinca\ngoldfish, Carassius\n", ["0"], ["tench, Tinca tinca"]),
        ("names.txt", "tench, Tinca tinca\ngoldfish\n", ["1"], ["goldfish"]),
        ("names.txt", "1\n2\n3\n", ["1", "2", "3"], ["1", "2", "3"]),
        ("names.txt", "1\n2\n3\n", ["0", "1", "2"], ["1", "2", "3"]),
        ("names.csv", "cat ,cat\nCat,cat\n", ["cat ", "Cat"], ["cat", "cat"]),
        ("names.txt", "cat\ncat \nCat\n", ["cat ", "Cat", "cat"], ["cat ", "Cat", "cat"]),
        ("names.txt", "cat \ndog\n", ["cat", "dog"], ["cat", "dog"]),
        ("names.txt", "rose\ntulip\n", ["rose", "0"], ["rose", "rose"]),
    ],
)
def test_every_format_gives_the_new_names(
    name: str, text: str, labels: list[str], expected: list[str], tmp_path: Path
) -> None:
    assert new_names(tmp_path / name, text, *labels) == dict(zip(labels, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("names.txt", "", "contains no names: write one line per class"),
        ("names.json", "{", "is not a valid file"),
        ("names.json", '{"a": {"b": 1}}', "contains no names"),
        ("names.csv", "a,b\na,c\n", "the key 'a' has two names, 'b' and 'c': correct the file"),
        ("names.csv", "x,b\ny,c\n", r"has an entry for none of the 2 classes \('a', '1'; the file has 'x', 'y'\)"),
        ("names.csv", "A,b\n", "'a', which the file calls 'A'"),
    ],
)
def test_a_file_that_does_not_fit_raises_an_error(name: str, text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=match):
        new_names(tmp_path / name, text, "a", "1")


def test_labels_that_count_from_one_do_not_get_the_names_of_their_neighbors(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="has 3 names, for the labels 0 to 2, but the data have the label '3'"):
        new_names(tmp_path / "names.txt", "rose\ntulip\naster\n", "1", "2", "3")


def test_a_missing_or_binary_file_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"names\.csv cannot be read \(No such file or directory\): pass an exist"):
        read_class_names(str(tmp_path / "names.csv"))
    (tmp_path / "names.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(PipelineError, match=r"names\.csv is not a valid file: .*utf-8"):
        read_class_names(str(tmp_path / "names.csv"))


def test_a_model_gets_new_names_in_its_order(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "names.csv", "LABEL_1,dog", "LABEL_0,cat")
    assert rename_model(str(file), ["LABEL_0", "LABEL_1", "LABEL_2"]) == ["cat", "dog", "LABEL_2"]
    write_csv(file, "LABEL_1,dog", "LABEL_0,dog")
    with pytest.raises(PipelineError, match="'LABEL_0', 'LABEL_1' of the model have the same name 'dog'"):
        rename_model(str(file), ["LABEL_0", "LABEL_1"])


def test_variants_and_near_names() -> None:
    assert find_variants(["cat", "dog", " Cat", "a  b", "a b", "Ro\u0308se", "R\u00f6se"]) == [
        ["cat", " Cat"],
        ["a  b", "a b"],
        ["Ro\u0308se", "R\u00f6se"],
    ]
    assert find_nearest(["1", "2.0", "CAT", "x", "-3"], ["001", "2", "cat", "3"]) == {
        "1": "001",
        "2.0": "2",
        "CAT": "cat",
    }
    assert say_similar(["tullip", "class_3"], ["tulip", "class_1"]) == "'tullip' is similar to 'tulip'"


# --- in training


def save_labels(folder: Path, *values: str) -> Path:
    """Write a table with images of these labels."""
    for number in range(len(values)):
        (folder / f"{number}.png").write_bytes(png_bytes(number))
    write_csv(folder / "train.csv", "image,label", *(f'{number}.png,"{value}"' for number, value in enumerate(values)))
    return folder


def test_classes_that_differ_in_spelling_raise_an_error_with_counts(tmp_path: Path) -> None:
    save_labels(tmp_path, *["cat"] * 3, *["cat "] * 2, "Cat", *["dog"] * 2)
    with pytest.raises(PipelineError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "train has classes that differ only in case, blanks or Unicode form: "
        "'Cat' (1 image), 'cat' (3 images), 'cat ' (2 images)\n"
        "correct the labels, or pass --class_names FILE, which can merge them or list them all to keep them"
    )


def test_class_names_merge_or_keep_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = save_labels(tmp_path, *["cat"] * 3, *["cat "] * 2, *["Cat"] * 2, *["dog"] * 2)
    merging = write_csv(tmp_path / "merge.txt", "cat \tcat", "Cat\tcat", "bird\tbird")
    splits = load(data, class_names=str(merging))
    assert class_names_of(splits["train"]) == ["cat", "dog"]
    assert sorted(label_names_of(splits["train"]) + label_names_of(splits["validation"])) == ["cat"] * 7 + ["dog"] * 2
    assert warnings_in(caplog) == [
        "merge.txt: renaming 2 of 4 classes: 'Cat' -> 'cat', 'cat ' -> 'cat'",
        "merge.txt: merging into 'cat': 'Cat' (2 images), 'cat' (3 images), 'cat ' (2 images)",
        "merge.txt: 1 classes have no entry: 'dog'",
        "merge.txt: ignoring 1 keys that are not labels: 'bird'",
    ]
    assert splits.report.notes == tuple(warnings_in(caplog))
    keeping = tmp_path / "keep.txt"
    keeping.write_text("Cat\ncat\ncat \ndog\n")
    kept = load(data, class_names=str(keeping))
    assert class_names_of(kept["train"]) == ["Cat", "cat", "cat ", "dog"]
    assert fingerprint(kept) != fingerprint(splits)


def test_integer_labels_get_the_names_of_a_list_in_its_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [1, 0, 2, 1, 0, 2], feature=datasets.Value("int64"))
    names = write_csv(tmp_path / "names.txt", "tulip", "rose", "aster")
    splits = load(tmp_path, class_names=str(names))
    assert class_names_of(splits["train"]) == ["tulip", "rose", "aster"]
    assert sorted(label_names_of(splits["validation"]) + label_names_of(splits["train"])) == sorted(
        ["tulip", "rose", "aster"] * 2
    )


def test_a_listed_value_is_a_class_even_if_it_usually_means_no_label(tmp_path: Path) -> None:
    data = save_labels(tmp_path, *["nan"] * 2, *["curry"] * 2)
    names = write_csv(tmp_path / "names.txt", "nan", "curry")
    assert class_names_of(load(data, class_names=str(names))["train"]) == ["curry", "nan"]


def test_declared_names_that_differ_in_case_are_accepted(tmp_path: Path) -> None:
    letters = datasets.ClassLabel(names=["A", "a"])
    write_parquet(tmp_path / "train.parquet", [0, 1] * 2, feature=letters)
    assert class_names_of(load(tmp_path)["train"]) == ["A", "a"]


def test_the_same_number_in_another_spelling_raises_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["001", "002"])
    write_parquet(tmp_path / "validation.parquet", ["1", "002", "tulip"])
    write_parquet(tmp_path / "test.parquet", ["2", "1"])
    with pytest.raises(PipelineError) as caught:
        load(tmp_path, min_images_per_class=1)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("validation has '1', which train calls '001': use the same names in all splits")
    assert lines[1].startswith("test has '1', which train calls '001', '2', which train calls '002': use")
    assert lines[2].startswith("validation has classes without images in train ('tulip'): add images")
    names = write_csv(tmp_path / "names.csv", "1,001", "2,002", "tulip,002")
    assert label_names_of(load(tmp_path, class_names=str(names))["validation"]) == ["001", "002", "002"]


def test_class_names_cannot_be_combined_with_streaming() -> None:
    with pytest.raises(PipelineError, match=r"--class_names names\.csv needs all images before training"):
        load("owner/name", streaming=True, class_names="names.csv")


# --- in evaluation


def load_for_model(source: Path, *names: str, **arguments: Any) -> datasets.Dataset:
    rename_model = arguments.pop("rename_model", True)
    args = DataArguments(dataset_name=str(source), **arguments)
    return load_split(args, split="test", class_names=list(names), rename_model=rename_model)["test"]


def test_class_names_rename_the_data_and_the_model(tmp_path: Path) -> None:
    data = save_class_folders(tmp_path / "data" / "test", {"chat": 1, "chien": 2}).parent
    names = write_csv(tmp_path / "names.csv", "LABEL_1,cat", "LABEL_0,dog", "chat,cat", "chien,dog")
    rows = load_for_model(data, "LABEL_0", "LABEL_1", class_names=str(names))
    assert class_names_of(rows) == ["dog", "cat"]
    assert label_names_of(rows) == ["cat", "dog", "dog"]
    (tmp_path / "names.json").write_text(json.dumps({"chat": "cat", "chien": "dog"}))
    rows = load_for_model(data, "dog", "cat", "chat", class_names=str(tmp_path / "names.json"), rename_model=False)
    assert class_names_of(rows) == ["dog", "cat", "chat"]
    assert label_names_of(rows) == ["cat", "dog", "dog"]


def test_unknown_classes_are_shown_with_their_nearest_names(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "test", {"Cat": 1, "eel": 1})
    with pytest.raises(PipelineError) as caught:
        load_for_model(tmp_path, "cat", "dog")
    assert "'Cat', 'eel'; it has 'Cat', which the model calls 'cat' (classes of the model" in str(caught.value)
    assert "--class_names FILE (one line per class: OLD,NEW)" in str(caught.value)


def test_class_label_columns_are_renamed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [0, 1, -1], feature=TWO_CLASSES)
    names = write_csv(tmp_path / "names.csv", "a,cat", "b,dog")
    assert label_names_of(load_for_model(tmp_path, "dog", "cat", class_names=str(names))) == ["cat", "dog"]
