"""`--drop_list` and `--relabel`: which rows they name, and what the splits are afterwards."""

from pathlib import Path

import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.report import fingerprint
from pipeline.data.sources import load_split, load_splits
from pipeline.errors import PipelineError
from tests.data.conftest import (
    file_names_of,
    label_names_of,
    load,
    png_bytes,
    save_class_folders,
    save_images,
    warnings_in,
    write_csv,
    write_parquet,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        save_class_folders(tmp_path / "photos" / split, {"cat": count, "dog": count})
    return tmp_path / "photos"


def test_a_text_file_drops_training_rows_by_path(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drops = write_csv(tmp_path / "drop.txt", "train/cat/1.png", "", f"{photos}/train/dog/0.png")
    before, after = load(photos), load(photos, drop_list=str(drops))
    assert file_names_of(after["train"]) == ["0.png", "2.png", "3.png", "1.png", "2.png", "3.png"]
    assert label_names_of(after["train"]) == ["cat"] * 3 + ["dog"] * 3
    assert after["train"]["index"] == [0, 2, 3, 5, 6, 7]
    assert len(after["test"]) == len(before["test"])
    assert "--drop_list: dropping 2 of 8 rows of train" in warnings_in(caplog)
    assert "--drop_list: dropping 2 of 8 rows of train" in after.report.notes
    assert fingerprint(before) != fingerprint(after)


def test_an_edited_table_drops_and_relabels_rows_of_every_split(photos: Path, tmp_path: Path) -> None:
    issues = write_csv(
        tmp_path / "issues.csv",
        "split;file;issue;given_label;likely_label;score;reason;action",  # as a spreadsheet saves it
        "train;train/cat/1.png;label;cat;dog;0.9;;relabel",
        "train;train/cat/2.png;label;cat;dog;0.9;;drop",
        "train;train/cat/2.png;near duplicate;cat;;0.9;;drop",
        "train;train/dog/2.png;label;dog;cat;0.9;;",
        "test;test/dog/0.png;leakage;dog;;1.0;;drop",
        "validation;validation/dog/1.png;label;dog;cat;0.8;;relabel",
    )
    splits = load(photos, drop_list=str(issues), relabel=str(issues))
    assert label_names_of(splits["train"]) == ["cat", "dog", "cat", "dog", "dog", "dog", "dog"]
    assert file_names_of(splits["train"])[:3] == ["0.png", "1.png", "3.png"]
    assert label_names_of(splits["validation"]) == ["cat", "cat", "dog", "cat"]
    assert label_names_of(splits["test"]) == ["cat", "cat", "dog"]
    only = DataArguments(dataset_name=str(photos), drop_list=str(issues), relabel=str(issues))
    test = load_split(only, split="test", class_names=["cat", "dog"])["test"]
    assert test["label"] == splits["test"]["label"]
    rows = load_split(only, split="all", class_names=["cat", "dog"])["all"]
    assert len(rows) == 7 + 4 + 3
    assert rows["index"][-1] == 8 + 4 + 3


def test_rows_without_a_path_are_named_by_their_number(tmp_path: Path) -> None:
    images = [{"bytes": png_bytes(shade), "path": None} for shade in range(8)]
    for split in ("train", "validation"):
        write_parquet(tmp_path / "data" / f"{split}.parquet", ["a", "b"] * 4, images=images)
    drops = write_csv(tmp_path / "drop.txt", "3", "0")
    relabel = write_csv(tmp_path / "new.csv", "row,label", "1,a")
    splits = load(tmp_path / "data", drop_list=str(drops), relabel=str(relabel))
    assert splits["train"]["index"] == [1, 2, 4, 5, 6, 7]
    assert label_names_of(splits["train"]) == ["a", "a", "a", "b", "a", "b"]


def test_corrections_do_not_change_which_rows_are_held_out_and_sampled(tmp_path: Path) -> None:
    folder = save_class_folders(tmp_path / "photos", {"cat": 10, "dog": 10})
    before = load(folder, max_train_samples=10)
    dropped = file_names_of(before["train"])[0]
    drops = write_csv(tmp_path / "drop.txt", f"cat/{dropped}")
    after = load(folder, max_train_samples=10, drop_list=str(drops))
    assert after["validation"]["index"] == before["validation"]["index"]
    assert after["train"]["index"] == before["train"]["index"][1:]
    held_out = write_csv(tmp_path / "held.txt", f"cat/{file_names_of(before['validation'])[0]}")
    with pytest.raises(PipelineError, match="is in validation: add the column split to the file"):
        load(folder, drop_list=str(held_out))


def test_a_name_that_occurs_twice_needs_its_row_number(tmp_path: Path) -> None:
    rows = [{"bytes": png_bytes(shade), "path": "same.png"} for shade in range(4)]
    for split in ("train", "validation"):
        write_parquet(tmp_path / "data" / f"{split}.parquet", ["a", "b", "a", "b"], images=rows)
    with pytest.raises(PipelineError, match=r"'same.png' names several rows: write the row number .* 0/same\.png"):
        load(tmp_path / "data", drop_list=str(write_csv(tmp_path / "drop.txt", "same.png")))
    splits = load(tmp_path / "data", drop_list=str(write_csv(tmp_path / "drop.txt", "1/same.png")))
    assert splits["train"]["index"] == [0, 2, 3]


def test_names_that_look_like_formulas_are_found_in_both_forms(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for split in ("train", "validation"):
        save_images(folder / split, "=1+1/a.png", "=1+1/b.png", "=1+1/c.png", "@x/0.png", "@x/1.png", "@x/2.png")
    drops = write_csv(tmp_path / "drop.csv", "file", "train/=1+1/a.png")
    relabel = write_csv(tmp_path / "relabel.csv", "file,label", "train/=1+1/b.png,'@x")
    splits = load(folder, drop_list=str(drops), relabel=str(relabel))
    assert label_names_of(splits["train"]) == ["@x", "=1+1", "@x", "@x", "@x"]


def test_a_row_that_looks_like_a_formula_is_found_in_both_forms(tmp_path: Path) -> None:
    images = [{"bytes": png_bytes(shade), "path": f"=a{shade}.png"} for shade in range(4)]
    for split in ("train", "validation"):
        write_parquet(tmp_path / "data" / f"{split}.parquet", ["a", "b", "a", "b"], images=images)
    drops = write_csv(tmp_path / "drop.csv", "file", "'=a0.png", "=a1.png")
    assert load(tmp_path / "data", drop_list=str(drops))["train"]["index"] == [2, 3]


@pytest.mark.parametrize(
    ("flag", "name", "lines", "message"),
    [
        (
            "drop_list",
            "d.txt",
            ["train/cat/9.png"],
            r"1 rows are not found in train \('train/cat/9.png' \(did you mean",
        ),
        ("drop_list", "d.txt", ["", " "], "names no row"),
        ("drop_list", "d.csv", ["name,x", "a,b"], "has the columns name, x: name the columns file"),
        ("drop_list", "d.csv", ["file,action", "train/cat/1.png,"], "has no row with the action drop"),
        ("drop_list", "d.csv", ["file,action", "train/cat/1.png,delete"], "has the action 'delete'"),
        ("drop_list", "d.csv", ["file,split", "train/cat/1.png,trian"], "has the split 'trian'"),
        ("relabel", "r.txt", ["train/cat/1.png dog"], "is not a table: pass a CSV file"),
        ("relabel", "r.csv", ["file,label", "train/cat/1.png,dogg"], r"unknown class 'dogg' \(did you mean 'dog'\?\)"),
        ("relabel", "r.csv", ["file,label", "train/cat/1.png,"], "has no new label for 'train/cat/1.png'"),
        (
            "relabel",
            "r.csv",
            ["file,label", "train/cat/1.png,dog", "train/cat/1.png,cat"],
            "'train/cat/1.png' is corrected in two ways",
        ),
        ("drop_list", "d.txt", [f"train/cat/{n}.png" for n in range(4)], "train has no image of 'cat' after"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    photos: Path, tmp_path: Path, flag: str, name: str, lines: list[str], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        load(photos, **{flag: str(write_csv(tmp_path / name, *lines))})


def test_a_row_is_not_dropped_and_relabeled(photos: Path, tmp_path: Path) -> None:
    drops = write_csv(tmp_path / "drop.txt", "train/cat/1.png")
    relabel = write_csv(tmp_path / "relabel.csv", "file,label", "train/cat/1.png,dog")
    with pytest.raises(PipelineError, match="is corrected in two ways"):
        load(photos, drop_list=str(drops), relabel=str(relabel))


def test_streaming_refuses_corrections(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"--drop_list .* all images before training"):
        load_splits(DataArguments(dataset_name="owner/name", streaming=True, drop_list=str(tmp_path / "d.txt")))
