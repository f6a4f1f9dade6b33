"""Tables of embedded images or image paths: rows are assigned to splits, and invalid tables raise an error."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from pipeline.data.report import fingerprint
from pipeline.errors import PipelineError
from tests.data.conftest import (
    assert_format,
    class_names_of,
    file_names_of,
    label_names_of,
    load,
    png_bytes,
    save_images,
    warnings_in,
    write_csv,
    write_parquet,
)

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "validation.parquet", "test.parquet"),
        (
            "data/train-00000-of-00001.parquet",
            "data/valid-00000-of-00001.parquet",
            "data/test-00000-of-00001.parquet",
        ),
        ("train/0000.parquet", "dev/0000.parquet", "test/0000.parquet"),
    ],
)
def test_parquet_files_are_grouped_by_split(names: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "we[i]rd"  # brackets would be a glob pattern if they were not escaped
    for name in names:
        write_parquet(root / name, ["rose", "aster"])
    splits = load(root)
    assert_format(splits, "train", "validation", "test")
    assert label_names_of(splits["test"]) == ["rose", "aster"]
    assert splits["test"][1]["image"] == {"bytes": png_bytes(1), "path": "1.png"}


def test_files_of_a_split_are_concatenated_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shard in range(2):
        write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", ["a", "b"] if shard else ["b", "b"])
    write_parquet(tmp_path / "validation.parquet", ["a", "b"])
    write_parquet(tmp_path / "leftover.parquet", ["a"])
    assert label_names_of(load(tmp_path)["train"]) == ["b", "b", "a", "b"]
    assert "ignoring files whose names match no split: 'leftover.parquet'" in warnings_in(caplog)


def test_single_file_is_used_as_train(tmp_path: Path) -> None:
    assert_format(load(write_parquet(tmp_path / "flowers.parquet", ["a", "b"] * 3)), "train", "validation")


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    write_parquet(tmp_path / "validation.parquet", ["a", "b"])
    file = write_parquet(tmp_path / "train.parquet", ["a", "b"])
    load(tmp_path)
    write_parquet(file, ["b", "a", "a"])
    os.utime(file, (1, 1))
    assert label_names_of(load(tmp_path)["train"]) == ["b", "a", "a"]


def test_parquet_files_are_not_buffered_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file, pre_buffer_values = pq.ParquetFile, list[bool]()

    def record_options(source: Any, *, pre_buffer: bool) -> pq.ParquetFile:
        pre_buffer_values.append(pre_buffer)
        return open_file(source, pre_buffer=pre_buffer)

    monkeypatch.setattr(pq, "ParquetFile", record_options)
    load(write_parquet(tmp_path / "flowers.parquet", ["a", "b"] * 3))
    assert pre_buffer_values == [False]


def test_corrupt_parquet_file_raises_an_error_with_its_split(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"not a table" * 10)
    with pytest.raises(PipelineError, match=r"the Parquet files of train cannot be read: .*magic bytes"):
        load(tmp_path)


def test_parquet_file_with_damaged_columns_raises_an_error(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", ["a", "b"])
    contents = file.read_bytes()
    length = int.from_bytes(contents[-8:-4], "little")
    file.write_bytes(contents[: -8 - length] + b"\xff" * length + contents[-8:])
    with pytest.raises(PipelineError, match=r"files of train cannot be read: Couldn't .*: write or download them"):
        load(tmp_path)


def test_progress_bars_are_not_written_to_logs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_parquet(tmp_path / "flowers.parquet", ["a", "b"] * 2)
    capfd.readouterr()
    load(file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.com/x.png"])
def test_image_paths_in_parquet_files_are_not_followed(path: str, tmp_path: Path) -> None:
    images = [{"bytes": png_bytes(), "path": None}, {"bytes": None, "path": path}]
    write_parquet(tmp_path / "train.parquet", ["a", "b"], images=images)
    with pytest.raises(
        PipelineError, match=rf"train: 1 images are paths without bytes \(row 1: {path}\); paths in Parquet files"
    ):
        load(tmp_path)


@pytest.mark.parametrize("raw", ["binary", "large_binary", "struct"])
def test_image_bytes_are_read_from_every_column_type(raw: str, tmp_path: Path) -> None:
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features(
        {"photo": struct if raw == "struct" else datasets.Value(raw), "species": datasets.Value("string")}
    )
    value = {"bytes": png_bytes(), "path": None} if raw == "struct" else png_bytes()
    table = datasets.Dataset.from_dict({"photo": [value] * 4, "species": ["a", "b"] * 2}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    assert load(tmp_path)["train"][0]["image"] == {"bytes": png_bytes(), "path": None}


def test_csv_paths_are_relative_to_the_folder_of_the_file(tmp_path: Path) -> None:
    save_images(tmp_path / "set", "pictures/1.png", "pictures/2.png", "pictures/with, comma.png")
    outside = tmp_path / "outside.png"
    outside.write_bytes(png_bytes())
    write_csv(
        tmp_path / "set" / "train.csv",
        "\ufefffile_name,species",
        "pictures/1.png, rose",
        f"{outside},aster",
        '"pictures/with, comma.png",rose',
    )
    write_csv(tmp_path / "set" / "test.csv", "file_name", "pictures/2.png")
    write_csv(tmp_path / "set" / "dev.csv", "file_name,species", "pictures/2.png,rose", "pictures/2.png,aster")
    splits = load(tmp_path / "set", follow_paths=True)
    assert_format(splits, "train", "validation")
    assert label_names_of(splits["train"]) == ["rose", "aster", "rose"]
    assert [image["path"] for image in splits["train"]["image"]] == [
        str(tmp_path / "set" / "pictures" / "1.png"),
        str(outside),
        str(tmp_path / "set" / "pictures" / "with, comma.png"),
    ]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (
            ["image,label", "https://example.com/1.png,a"],
            r": 1 images are URLs, not local files \(first: https://example",
        ),
        (
            ["image,label", "1.png,a,extra"],
            r": 1 of 2 lines do not have 2 fields separated by ',' .*: line 2 \(1.png,a,",
        ),
        (
            ["remark,label", "nice,a"],
            r": no image column found among the columns remark, label: pass --image_column_name",
        ),
    ],
)
def test_invalid_csv_file_raises_an_error_with_its_name(lines: list[str], match: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", *lines)
    with pytest.raises(PipelineError, match=rf"train\.csv{match}"):
        load(tmp_path)


def test_empty_or_latin1_csv_file_raises_an_error(tmp_path: Path) -> None:
    for contents in (b"", "image,label\nä.png,ü\n".encode("latin-1")):
        (tmp_path / "train.csv").write_bytes(contents)
        with pytest.raises(PipelineError, match=r"train\.csv is not a valid CSV table"):
            load(tmp_path)


@pytest.mark.parametrize("form", ["../outside/1.png", "{root}/outside/1.png"])
def test_images_outside_of_the_folder_are_read_only_if_asked_for(form: str, tmp_path: Path) -> None:
    save_images(tmp_path / "outside", "1.png")
    save_images(tmp_path / "set", *(f"{i}.png" for i in range(8)))
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(8)]
    write_csv(tmp_path / "set" / "train.csv", "image,label", *rows, f"{form.format(root=tmp_path)},a")
    with pytest.raises(
        PipelineError, match=r"1 images that the tables list are outside of .*/set \(first: .*1\.png\): "
    ):
        load(tmp_path / "set")
    splits = load(tmp_path / "set", follow_paths=True)
    assert len(splits["train"]) + len(splits["validation"]) == 9


def test_a_link_in_the_folder_may_lead_out_of_it(tmp_path: Path) -> None:
    save_images(tmp_path / "outside", *(f"{i}.png" for i in range(8)))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "outside")
    write_csv(tmp_path / "set" / "train.csv", "image,label", *(f"images/{i}.png,{'ab'[i % 2]}" for i in range(8)))
    assert len(load(tmp_path / "set")["train"]) == 6


# --- metadata files next to the images, as in the image folders of `datasets`


def write_metadata(folder: Path, extension: str, rows: Mapping[str, str]) -> None:
    """Write `metadata.csv` or `metadata.jsonl` with one file name and label per row, and save the images."""
    save_images(folder, *rows)
    pairs = [{"file_name": name, "label": label, "text": "a flower"} for name, label in rows.items()]
    if extension == ".csv":
        write_csv(folder / "metadata.csv", "file_name,label,text", *(",".join(pair.values()) for pair in pairs))
    else:
        (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs), encoding="utf-8")


BOTH_FORMATS = pytest.mark.parametrize("extension", [".csv", ".jsonl"])


@BOTH_FORMATS
def test_metadata_file_in_the_root_folder(extension: str, tmp_path: Path) -> None:
    write_metadata(tmp_path, extension, {f"images/{number}.png": "ab"[number % 2] for number in range(4)})
    splits = load(tmp_path)
    assert_format(splits, "train", "validation")
    listed = [*splits["train"]["image"], *splits["validation"]["image"]]
    assert sorted(image["path"] for image in listed) == [f"{tmp_path}/images/{number}.png" for number in range(4)]


@BOTH_FORMATS
def test_metadata_file_in_each_split_folder(extension: str, tmp_path: Path) -> None:
    for split, count in {"train": 3, "valid": 2, "test": 1}.items():
        write_metadata(tmp_path / split, extension, {f"{label}{i}.png": label for i in range(count) for label in "ab"})
    splits = load(tmp_path)
    assert_format(splits, "train", "validation", "test")
    assert [label_names_of(split) for split in splits.values()] == [["a", "b"] * 3, ["a", "b"] * 2, ["a", "b"]]
    assert splits["test"][0]["image"] == {"bytes": None, "path": str(tmp_path / "test" / "a0.png")}


@BOTH_FORMATS
def test_metadata_file_assigns_splits_by_the_folders_of_the_images(extension: str, tmp_path: Path) -> None:
    names = [f"{split}/{i}.png" for i in range(2) for split in ("test", "train", "dev")]
    write_metadata(tmp_path, extension, {name: "ab"[int(name[-5])] for name in names})
    splits = load(tmp_path)
    assert_format(splits, "train", "validation", "test")
    assert [file_names_of(split) for split in splits.values()] == [["0.png", "1.png"]] * 3
    assert fingerprint(splits) == fingerprint(load(tmp_path))


def test_split_in_the_file_name_takes_precedence_over_image_folders(tmp_path: Path) -> None:
    save_images(tmp_path, "test/1.png", "test/2.png")
    for split in ("train", "validation"):
        write_csv(tmp_path / f"{split}.csv", "file_name,label", "test/1.png,a", "test/2.png,b")
    assert_format(load(tmp_path), "train", "validation")


def test_numbers_in_json_lines_become_class_names(tmp_path: Path) -> None:
    save_images(tmp_path, "0.png", "1.png", "2.png", "3.png")
    lines = [json.dumps({"file_name": f"{number}.png", "label": number % 2 + 9}) for number in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert class_names_of(load(tmp_path)["train"]) == ["9", "10"]


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        (b"", "is not a valid JSON lines table in UTF-8: Empty JSON file"),
        (b'{"file_name": "1.png"', "is not a valid JSON lines table"),
        (b'{"file_name": "\xff.png", "label": "a"}', "is not a valid JSON lines table"),
        (b'{"file_name": 1, "label": "a"}', "no image column found among the columns file_name, label"),
        (b'{"image": {"bytes": "x"}, "label": "a"}', "column image does not contain image paths"),
        (b'{"file_name": "https://example.com/1.png", "label": "a"}', "1 images are URLs, not local files"),
        (b'{"file_name": "1.png", "label": {"a": 1}}', "column label contains .* one text or integer label per image"),
    ],
)
def test_invalid_json_lines_raise_an_error(contents: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(contents)
    with pytest.raises(PipelineError, match=match):
        load(tmp_path)


def test_files_with_different_column_types_raise_an_error(tmp_path: Path) -> None:
    save_images(tmp_path, "1.png")
    for shard, label in enumerate(('"a"', "1")):
        (tmp_path / f"train-{shard}.jsonl").write_text(f'{{"file_name": "1.png", "label": {label}}}')
    with pytest.raises(PipelineError, match="the tables have different column types"):
        load(tmp_path)


def test_table_without_rows_raises_an_error(tmp_path: Path) -> None:
    write_csv(tmp_path / "metadata.csv", "file_name,label")
    with pytest.raises(PipelineError, match="train has no labels"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["trian.csv", "trian/metadata.csv", "train/metadata.csv"])
def test_misspelled_table_name_raises_an_error(name: str, tmp_path: Path) -> None:
    save_images(tmp_path, "1.png", "2.png")
    for file in (name, "test.csv", "eval.csv"):
        write_csv(tmp_path / file, "file_name,label", f"{tmp_path}/1.png,a", f"{tmp_path}/2.png,b")
    with pytest.raises(PipelineError, match="looks like validation: rename it to 'validation'") as caught:
        load(tmp_path)
    assert ("'trian" in str(caught.value)) == ("trian" in name)


# --- splits by the rows of a table


def test_split_column_assigns_rows_to_splits(tmp_path: Path) -> None:
    save_images(tmp_path, "1.png")
    rows = [f"1.png,{label},{split}" for split in ("TRAIN", "valid", "test") for label in "ab"]
    write_csv(tmp_path / "labels.csv", "image,label,split", *rows)
    assert_format(load(tmp_path), "train", "validation", "test")
    write_csv(tmp_path / "labels.csv", "image,label,split", *rows, "1.png,a,unassigned")
    with pytest.raises(PipelineError, match=r"column 'split' assigns .*, but 'unassigned' is not a split: write"):
        load(tmp_path)
    write_csv(tmp_path / "labels.csv", "image,label,set", *("1.png,a,blue", "1.png,b,red") * 2)
    assert_format(load(tmp_path), "train", "validation")


def test_rows_are_assigned_to_the_folders_in_which_their_images_are_found(tmp_path: Path) -> None:
    names = [f"{split}/{split}{i}.png" for split in ("train", "test") for i in range(4)]
    save_images(tmp_path, *names)
    rows = [f"C:\\{name.replace('/', chr(92))},{'ab'[int(name[-5]) % 2]}" for name in names]
    write_csv(tmp_path / "labels.csv", "image,label", *rows)
    splits = load(tmp_path)
    assert file_names_of(splits["test"]) == [f"test{i}.png" for i in range(4)]


def test_images_outside_split_folders_put_all_rows_into_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "test/1.png", "more/2.png")
    write_csv(tmp_path / "labels.csv", "image,label", *("test/1.png,a", "more/2.png,b") * 2)
    assert_format(load(tmp_path), "train", "validation")
    assert "2 of 4 images are not in one of the split folders 'test'; using all images as train" in caplog.text


def test_shards_with_different_columns_raise_an_error(tmp_path: Path) -> None:
    save_images(tmp_path, "1.png")
    write_csv(tmp_path / "part-0.csv", "image,label", "1.png,a")
    write_csv(tmp_path / "part-1.csv", "image,class", "1.png,b")
    with pytest.raises(PipelineError, match=r"different columns \(image, label; image, class\): use the same columns"):
        load(tmp_path)


def test_absolute_paths_are_in_their_split_folder_if_the_dataset_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{split}/{split}{i}.png" for split in ("train", "test") for i in range(4)]
    save_images(tmp_path, *names)
    write_csv(
        tmp_path / "labels.csv", "image,label", *(f"{tmp_path}/{name},{'ab'[int(name[-5]) % 2]}" for name in names)
    )
    monkeypatch.chdir(tmp_path)
    assert file_names_of(load(".")["test"]) == [f"test{i}.png" for i in range(4)]


def test_images_next_to_the_folders_of_the_tables_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "train/1.png", "train/2.png", "test/3.png", "4.png")
    write_csv(tmp_path / "train" / "metadata.csv", "file_name,label", *("1.png,a", "2.png,b") * 2)
    load(tmp_path)
    assert warnings_in(caplog) == [
        f"{tmp_path}/: ignoring 1 images that no table lists: '4.png'",
        f"{tmp_path}/: ignoring folders with images that no table lists: 'test'",
        "train: 2 images are listed more than once; using every row",
    ]


def test_paths_that_cannot_exist_raise_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image,label\na\0.png,a\nb.png,b\n")
    with pytest.raises(PipelineError, match=r"the image path 'a\\x00.png' contains a NUL character: save the table"):
        load(tmp_path)
    (tmp_path / "train.csv").write_text("image,la\0bel\na.png,a\nb.png,b\n")
    with pytest.raises(PipelineError, match=r"the column name 'la\\x00bel' contains a NUL character: save the table"):
        load(tmp_path)
    save_images(tmp_path, "caf\udce9/b.png")
    write_csv(tmp_path / "train.csv", "image,label", "b.png,a", "b.png,b")
    with pytest.raises(PipelineError, match=r"the file name '.*caf\\udce9/b.png' is not valid UTF-8: rename the file"):
        load(tmp_path)
