"""Tables of images, and of paths to images: which row is in which split, and what is refused."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow.dataset
import pytest

from pipeline.data.sources import fingerprint
from pipeline.errors import PipelineError
from tests.data.conftest import (
    assert_shape,
    draw,
    files_of,
    labels_of,
    load,
    names_of,
    picture,
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
def test_parquet_files_by_split(names: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "we[i]rd"  # a pattern of characters, were it not a name
    for name in names:
        write_parquet(root / name, ["rose", "aster"])
    splits = load(root)
    assert_shape(splits, "train", "validation", "test")
    assert labels_of(splits["test"]) == ["rose", "aster"]
    assert splits["test"][1]["image"] == {"bytes": picture(1), "path": "1.png"}


def test_shards_of_a_split_are_joined_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shard in range(2):
        write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", ["a", "b"] if shard else ["b", "b"])
    write_parquet(tmp_path / "validation.parquet", ["a", "b"])
    write_parquet(tmp_path / "leftover.parquet", ["a"])
    assert labels_of(load(tmp_path)["train"]) == ["b", "b", "a", "b"]
    assert "files left out, their names tell no split: 'leftover.parquet'" in warnings_in(caplog)


def test_one_file_is_train(tmp_path: Path) -> None:
    assert_shape(load(write_parquet(tmp_path / "flowers.parquet", ["a", "b"] * 3)), "train", "validation")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write_parquet(tmp_path / "validation.parquet", ["a", "b"])
    file = write_parquet(tmp_path / "train.parquet", ["a", "b"])
    load(tmp_path)
    write_parquet(file, ["b", "a", "a"])
    os.utime(file, (1, 1))
    assert labels_of(load(tmp_path)["train"]) == ["b", "a", "a"]


def test_no_parquet_file_is_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, held = pyarrow.dataset.ParquetFileFormat, []

    def note(*, default_fragment_scan_options: pyarrow.dataset.ParquetFragmentScanOptions) -> Any:
        held.append(default_fragment_scan_options.pre_buffer)
        return real(default_fragment_scan_options=default_fragment_scan_options)

    monkeypatch.setattr(pyarrow.dataset, "ParquetFileFormat", note)
    load(write_parquet(tmp_path / "flowers.parquet", ["a", "b"] * 3))
    assert held == [False]


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"not a table" * 10)
    with pytest.raises(PipelineError, match=r"train cannot be read as Parquet: .*magic bytes"):
        load(tmp_path)


def test_bars_stay_out_of_logs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_parquet(tmp_path / "flowers.parquet", ["a", "b"] * 2)
    capfd.readouterr()
    load(file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.com/x.png"])
def test_paths_in_parquet_are_not_followed(path: str, tmp_path: Path) -> None:
    images = [{"bytes": picture(), "path": None}, {"bytes": None, "path": path}]
    write_parquet(tmp_path / "train.parquet", ["a", "b"], images=images)
    with pytest.raises(PipelineError, match=f"train: 1 images are a path without bytes .row 1: {path}"):
        load(tmp_path)


@pytest.mark.parametrize("raw", ["binary", "large_binary", "struct"])
def test_bytes_are_images_whatever_the_column_type(raw: str, tmp_path: Path) -> None:
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features(
        {"photo": struct if raw == "struct" else datasets.Value(raw), "species": datasets.Value("string")}
    )
    value = {"bytes": picture(), "path": None} if raw == "struct" else picture()
    table = datasets.Dataset.from_dict({"photo": [value] * 4, "species": ["a", "b"] * 2}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    assert load(tmp_path)["train"][0]["image"] == {"bytes": picture(), "path": None}


def test_csv_paths_are_below_its_folder(tmp_path: Path) -> None:
    draw(tmp_path / "set", "pictures/1.png", "pictures/2.png", "pictures/with, comma.png")
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture())
    write_csv(
        tmp_path / "set" / "train.csv",
        "\ufefffile_name,species",
        "pictures/1.png, rose",
        f"{outside},aster",
        '"pictures/with, comma.png",rose',
    )
    write_csv(tmp_path / "set" / "test.csv", "file_name", "pictures/2.png")
    write_csv(tmp_path / "set" / "dev.csv", "file_name,species", "pictures/2.png,rose", "pictures/2.png,aster")
    splits = load(tmp_path / "set")
    assert_shape(splits, "train", "validation")
    assert labels_of(splits["train"]) == ["rose", "aster", "rose"]
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
            "1 images are addresses, not files: https://example",
        ),
        (["image,label", "1.png,a,extra"], "not a CSV table in UTF-8"),
        (
            ["picture,label", "1.png,a"],
            r"No column of images among: picture, label\. Pass --image_column_name",
        ),
    ],
)
def test_bad_csv_files_are_named(lines: list[str], match: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", *lines)
    with pytest.raises(PipelineError, match=rf"train\.csv: {match}"):
        load(tmp_path)


def test_an_empty_csv_file_and_one_of_another_encoding_are_refused(tmp_path: Path) -> None:
    for contents in (b"", "image,label\nä.png,ü\n".encode("latin-1")):
        (tmp_path / "train.csv").write_bytes(contents)
        with pytest.raises(PipelineError, match=r"train\.csv: not a CSV table"):
            load(tmp_path)


# --- metadata beside the images, as `datasets` has it


def write_metadata(folder: Path, extension: str, rows: Mapping[str, str]) -> None:
    """Write `metadata.csv` or `metadata.jsonl` with a file name and a label a row, and draw the images."""
    draw(folder, *rows)
    pairs = [{"file_name": name, "label": label, "text": "a flower"} for name, label in rows.items()]
    if extension == ".csv":
        write_csv(folder / "metadata.csv", "file_name,label,text", *(",".join(pair.values()) for pair in pairs))
    else:
        (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs), encoding="utf-8")


BOTH = pytest.mark.parametrize("extension", [".csv", ".jsonl"])


@BOTH
def test_metadata_at_the_root(extension: str, tmp_path: Path) -> None:
    write_metadata(tmp_path, extension, {f"images/{place}.png": "ab"[place % 2] for place in range(4)})
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation")
    listed = [*splits["train"]["image"], *splits["validation"]["image"]]
    assert sorted(image["path"] for image in listed) == [f"{tmp_path}/images/{place}.png" for place in range(4)]


@BOTH
def test_metadata_in_every_split_folder(extension: str, tmp_path: Path) -> None:
    for split, count in {"train": 3, "valid": 2, "test": 1}.items():
        write_metadata(tmp_path / split, extension, {f"{label}{i}.png": label for i in range(count) for label in "ab"})
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation", "test")
    assert [labels_of(split) for split in splits.values()] == [["a", "b"] * 3, ["a", "b"] * 2, ["a", "b"]]
    assert splits["test"][0]["image"] == {"bytes": None, "path": str(tmp_path / "test" / "a0.png")}


@BOTH
def test_metadata_at_the_root_tells_the_splits_by_their_folders(extension: str, tmp_path: Path) -> None:
    names = [f"{split}/{i}.png" for i in range(2) for split in ("test", "train", "dev")]
    write_metadata(tmp_path, extension, {name: "ab"[int(name[-5])] for name in names})
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation", "test")
    assert [files_of(split) for split in splits.values()] == [["0.png", "1.png"]] * 3
    assert fingerprint(splits) == fingerprint(load(tmp_path))


def test_a_file_name_tells_the_split_whatever_the_folders_of_the_images(tmp_path: Path) -> None:
    draw(tmp_path, "test/1.png", "test/2.png")
    for split in ("train", "validation"):
        write_csv(tmp_path / f"{split}.csv", "file_name,label", "test/1.png,a", "test/2.png,b")
    assert_shape(load(tmp_path), "train", "validation")


def test_numbers_in_json_lines_are_labels(tmp_path: Path) -> None:
    draw(tmp_path, "0.png", "1.png", "2.png", "3.png")
    lines = [json.dumps({"file_name": f"{place}.png", "label": place % 2 + 9}) for place in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert names_of(load(tmp_path)["train"]) == ["9", "10"]


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        (b"", "not a JSON lines table in UTF-8: Empty JSON file"),
        (b'{"file_name": "1.png"', "not a JSON lines table"),
        (b'{"file_name": "\xff.png", "label": "a"}', "not a JSON lines table"),
        (b'{"file_name": 1, "label": "a"}', "No column of images among: file_name, label"),
        (b'{"image": {"bytes": "x"}, "label": "a"}', "column image holds no paths"),
        (b'{"file_name": "https://example.com/1.png", "label": "a"}', "1 images are addresses, not files"),
        (b'{"file_name": "1.png", "label": {"a": 1}}', "Column label holds .* one label an image is needed"),
    ],
)
def test_bad_json_lines_are_named(contents: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(contents)
    with pytest.raises(PipelineError, match=match):
        load(tmp_path)


def test_files_of_a_split_that_differ_in_types_are_refused(tmp_path: Path) -> None:
    draw(tmp_path, "1.png")
    for shard, label in enumerate(('"a"', "1")):
        (tmp_path / f"train-{shard}.jsonl").write_text(f'{{"file_name": "1.png", "label": {label}}}')
    with pytest.raises(PipelineError, match=r"\.jsonl files differ in the types of their columns"):
        load(tmp_path)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "metadata.csv", "file_name,label")
    with pytest.raises(PipelineError, match="train has no labels"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["trian.csv", "trian/metadata.csv", "train/metadata.csv"])
def test_a_misspelt_table_is_not_left_out(name: str, tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png")
    for file in (name, "test.csv", "eval.csv"):
        write_csv(tmp_path / file, "file_name,label", f"{tmp_path}/1.png,a", f"{tmp_path}/2.png,b")
    with pytest.raises(PipelineError, match="looks like validation; call it so") as caught:
        load(tmp_path)
    assert ("'trian" in str(caught.value)) == ("trian" in name)
