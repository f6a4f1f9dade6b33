"""The tables of a dataset are chosen by their names, and never merged because their names allow it."""

import json
import logging
from pathlib import Path

import pytest

from pipeline.data.tables.files import find_extension, find_tables
from pipeline.errors import PipelineError
from tests.data.conftest import save_images, warnings_in


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("image,label\n")


def names_in(folder: Path) -> dict[str, list[str]]:
    return {split: [file.name for file in files] for split, files in find_tables(folder).items()}


@pytest.mark.parametrize(
    "names",
    [
        ["part-00000-of-00002.csv", "part-00001-of-00002.csv"],
        ["part-0.csv", "part-1.csv"],
        ["0001.tsv", "0002.tsv"],
        [f"part-0000{i}-2f0e1c3a-1234-4abc-8def-0123456789ab-c000.csv" for i in range(2)],
    ],
)
def test_shards_of_one_name_are_one_table(names: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *names)
    assert names_in(tmp_path) == {"train": names}


@pytest.mark.parametrize(
    "names",
    [
        ["labels.csv", "notes.csv"],
        ["labels_v1.csv", "labels_v2.csv"],
        ["labels_2019.csv", "labels_2020.csv"],
        ["labels.csv", "labels-1.csv"],
        ["part-0.csv", "part-2.csv"],
        ["train_labels.csv", "train_metadata.csv"],
    ],
)
def test_several_tables_raise_an_error_that_lists_them(names: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(PipelineError, match=rf"pass one of them \(--dataset_name {tmp_path}/{min(names)}\)") as caught:
        find_tables(tmp_path)
    assert all(name in str(caught.value) for name in names)
    assert list(find_tables(tmp_path / names[0])) == ["train"]


def test_unnamed_table_next_to_a_test_table_raises_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "labels.csv", "test.csv")
    with pytest.raises(
        PipelineError, match=r"no table is named like train, only 'labels.csv' and 'test.csv': pass one"
    ):
        find_tables(tmp_path)


def test_what_is_read_and_what_is_ignored_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    touch(tmp_path, "train.csv", "test.csv", "extra.csv", "sampleSubmission.csv", "old.jsonl", "features.parquet")
    assert names_in(tmp_path) == {"test": ["test.csv"], "train": ["train.csv"]}
    assert warnings_in(caplog) == [
        "ignoring files whose names match no split: 'extra.csv'",
        "ignoring tables of another type than .csv: 'features.parquet', 'old.jsonl'",
        "ignoring tables with placeholder labels to submit: 'sampleSubmission.csv'",
    ]
    assert "reading test from 'test.csv'; train from 'train.csv'" in caplog.text


def test_missing_shards_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "train-00000-of-00003.csv", "train-00002-of-00003.csv")
    find_tables(tmp_path)
    assert "only 2 of 3 shards are there" in caplog.text


def test_a_table_of_submissions_alone_is_not_a_dataset(tmp_path: Path) -> None:
    touch(tmp_path, "sample_submission.csv")
    assert find_extension(tmp_path) is None


def test_tables_in_a_wrapper_folder_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "archive/flowers/labels.csv", "__MACOSX/labels.csv")
    assert names_in(tmp_path) == {"train": ["labels.csv"]}


def test_json_array_is_a_table_unless_there_are_class_folders(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps([{"image": "images/0.png", "label": "a"}]))
    save_images(tmp_path, "images/0.png", "images/1.png")
    assert find_extension(tmp_path) == ".json"
    save_images(tmp_path, "other/0.png")
    assert find_extension(tmp_path) is None
