"""Warnings about rows that contradict each other, and about classes that lose all their images."""

import logging
from pathlib import Path

import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.sources import load_split
from tests.data.conftest import class_names_of, load, save_class_folders, save_images, warnings_in, write_csv

pytestmark = pytest.mark.usefixtures("empty_cache")


def test_images_that_several_rows_list_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{number}.png" for number in range(8)]
    save_images(tmp_path, *names)
    rows = [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names[:6])]
    write_csv(tmp_path / "train.csv", "image,label", *rows, "./0.png,b", "1.png,b", "0.png,a")
    write_csv(tmp_path / "validation.csv", "image,label", "6.png,a", "7.png,b", "5.png,b")
    splits = load(tmp_path)
    assert [len(split) for split in splits.values()] == [9, 3]
    assert (
        "train: 2 images are listed more than once, 1 of them with different labels: '0.png (a, b)'; using every row"
        in (warnings_in(caplog))
    )
    assert "1 images are in train and in validation, so metrics on validation are too high: '5.png'" in (
        warnings_in(caplog)
    )


def test_rows_without_a_label_contradict_no_other_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, *(f"{number}.png" for number in range(8)))
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(8)]
    write_csv(tmp_path / "train.csv", "image,label", *rows, "0.png,", "1.png,-1")
    load(tmp_path)
    assert warnings_in(caplog) == ["train: skipping 2 of 10 rows without a label ('-1' in 1)"]


def test_images_that_are_listed_once_need_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, *(f"{number}.png" for number in range(8)))
    write_csv(tmp_path / "train.csv", "image,label", *(f"{number}.png,{'ab'[number % 2]}" for number in range(8)))
    load(tmp_path)
    assert warnings_in(caplog) == []


def test_classes_without_readable_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class_folders(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    save_class_folders(tmp_path / "validation", {"a": 1, "b": 1, "c": 1})
    for file in [*(tmp_path / "train" / "c").iterdir(), *(tmp_path / "validation" / "b").iterdir()]:
        file.write_bytes(b"not an image")
    splits = load(tmp_path, bad_images="skip", max_bad_images=1)
    assert class_names_of(splits["train"]) == ["a", "b", "c"]
    warnings = [line for line in warnings_in(caplog) if "unreadable" in line]
    assert warnings == [
        "train: all images of 1 of 3 classes are unreadable, so the model cannot learn them: 'c'",
        "validation: all images of 1 of 3 classes are unreadable, so their metrics are missing: 'b'",
    ]
    assert any("all images of 1 of 3 classes are unreadable" in note for note in splits.report.notes)


def test_evaluation_names_images_that_several_rows_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    save_images(tmp_path, "0.png", "1.png")
    write_csv(tmp_path / "test.csv", "image,label", "0.png,a", "1.png,b", "1.png,a")
    args = DataArguments(dataset_name=str(tmp_path))
    load_split(args, split="all", class_names=["a", "b"])
    assert any(
        "with different labels: '1.png (a, b)'" in line or "'1.png (b, a)'" in line for line in warnings_in(caplog)
    )
