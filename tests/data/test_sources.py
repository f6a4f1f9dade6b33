"""Every kind of source becomes the same three columns; what cannot is refused by name."""

import dataclasses
import io
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.config import DataArguments
from pipeline.data.kinds import SOURCES
from pipeline.data.labels import natural_order
from pipeline.data.sources import fingerprint, load_split, load_splits
from pipeline.data.splits import cut_rows, limit_rows
from pipeline.data.synthetic import load_synthetic
from pipeline.errors import PipelineError
from tests.conftest import SHARED

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (3, 2), (shade % 256, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def draw(folder: Path, *names: str) -> None:
    for place, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(place))


def draw_classes(folder: Path, counts: Mapping[str, int]) -> Path:
    draw(folder, *(f"{name}/{place}.png" for name, count in counts.items() for place in range(count)))
    return folder


def write_parquet(
    file: Path, labels: Iterable[Any], *, feature: Any = None, images: list[Any] | None = None, **columns: str
) -> Path:
    """Write a table of images and labels; ``columns`` names them otherwise."""
    labels = list(labels)
    image, label = columns.get("image", "image"), columns.get("label", "label")
    rows = images or [{"bytes": picture(place), "path": f"{place}.png"} for place in range(len(labels))]
    features = datasets.Features({image: datasets.Image(decode=False), label: feature or datasets.Value("string")})
    file.parent.mkdir(parents=True, exist_ok=True)
    # Through Arrow, because `to_parquet` would look the paths up.
    table = pa.table({image: rows, label: labels}, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, file)
    return file


def write_csv(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def load(source: Path | str, **arguments: Any) -> datasets.DatasetDict:
    return load_splits(DataArguments(dataset_name=str(source), **arguments))


def names_of(split: datasets.Dataset) -> list[str]:
    names: list[str] = split.features["label"].names
    return names


def labels_of(split: datasets.Dataset) -> list[str]:
    """The labels by name, in order."""
    return [names_of(split)[label] for label in split["label"]]


def files_of(split: datasets.Dataset) -> list[str]:
    return [Path(image["path"]).name for image in split["image"]]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def assert_shape(splits: datasets.DatasetDict, *names: str) -> None:
    assert list(splits) == list(names)
    (features,) = {str(split.features) for split in splits.values()}
    assert features == str(
        datasets.Features(
            {
                "image": datasets.Image(decode=False),
                "label": datasets.ClassLabel(names=names_of(splits["train"])),
                "index": datasets.Value("int64"),
            }
        )
    )


# --- class folders


@pytest.mark.parametrize("validation", ["validation", "val", "Valid", "DEV"])
def test_split_folders(validation: str, tmp_path: Path) -> None:
    for name, count in {"Train": 3, validation: 1, "testing": 2}.items():
        draw_classes(tmp_path / name, {"rose": count, "aster": count})
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation", "test")
    assert {name: labels_of(split) for name, split in splits.items()} == {
        "train": ["aster"] * 3 + ["rose"] * 3,
        "validation": ["aster", "rose"],
        "test": ["aster"] * 2 + ["rose"] * 2,
    }
    assert splits["train"]["index"][:] == list(range(6))
    assert splits["train"][5]["image"] == {"bytes": None, "path": str(tmp_path / "Train" / "rose" / "2.png")}


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"1": 2, "10": 2, "100": 2, "2": 2})
    splits = load(tmp_path)
    assert names_of(splits["train"]) == ["1", "2", "10", "100"]
    assert set(labels_of(splits["train"])) == {"1", "2", "10", "100"}


def test_natural_order() -> None:
    assert natural_order(["b", "10", "a2", "9", "a10"]) == ["9", "10", "a10", "a2", "b"]


def test_what_is_listed_and_what_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(
        tmp_path,
        "a/1.PNG",
        "a/deep/er/2.png",
        "a/.3.png",
        "a/.hidden/4.png",
        ".git/5.png",
        "b/1.png",
        "b/2.png",
    )
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    (tmp_path / "empty").mkdir()
    splits = load(tmp_path)
    listed = [*zip(files_of(splits["train"]), labels_of(splits["train"]), strict=True)]
    listed += zip(files_of(splits["validation"]), labels_of(splits["validation"]), strict=True)
    assert sorted(listed) == [("1.PNG", "a"), ("1.png", "b"), ("2.png", "a"), ("2.png", "b")]
    assert names_of(splits["train"]) == ["a", "b"]
    assert f"{tmp_path}: class folders without images are left out: 'empty'" in warnings_in(caplog)
    assert f"{tmp_path}: files left out that are no images read here: 1 .txt, 1 .eps" in warnings_in(caplog)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    draw(elsewhere, "1.png", "2.png")
    root = draw_classes(tmp_path / "flowers", {"a": 2})
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "loop").symlink_to(root / "a")
    splits = load(root)
    assert len(splits["train"]) + len(splits["validation"]) == 4


def test_a_link_to_nothing_is_a_bad_image(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(PipelineError, match=r"gone\.png: no such file"):
        load(tmp_path)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"train": 2, "car": 2, "bus": 2})
    assert names_of(load(tmp_path)["train"]) == ["bus", "car", "train"]


def test_other_folders_beside_the_splits_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_classes(tmp_path / "train", {"a": 2, "b": 2})
    draw_classes(tmp_path / "extra", {"c": 2})
    assert names_of(load(tmp_path)["train"]) == ["a", "b"]
    assert f"{tmp_path}: folders left out beside the splits: 'extra'" in warnings_in(caplog)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_images_without_class_folders_are_refused(prefix: str, tmp_path: Path) -> None:
    draw(tmp_path, f"{prefix}1.png", f"{prefix}2.png")
    with pytest.raises(PipelineError, match="the images of train lie in no class folders"):
        load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"No images below .* that end in .*\.jpg"):
        load(tmp_path)


def test_two_splits_of_one_meaning_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "dev"):
        draw_classes(tmp_path / name, {"a": 1, "b": 1})
    with pytest.raises(PipelineError, match="Several splits mean validation: dev, val"):
        load(tmp_path)


def test_test_images_without_classes_are_not_scored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_classes(tmp_path / "train", {"a": 2, "b": 2})
    draw(tmp_path / "test", "1.png", "2.png")
    assert_shape(load(tmp_path), "train", "validation")
    assert "test has no labels and is not scored" in warnings_in(caplog)


# --- Parquet and CSV


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


# --- names


@pytest.mark.parametrize("name", ["./flowers", "~/no-such-flowers", "/no/flowers", r"data\flowers", "a/b/c", "flowers"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(PipelineError, match=r"no such folder.*Hub id is OWNER/NAME"):
        load(name)


def test_a_folder_of_which_half_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="data/flowers: no such folder"):
        load("data/flowers")


def test_a_mistyped_builtin_is_guessed() -> None:
    with pytest.raises(PipelineError, match="did you mean 'synthetic-flowers'"):
        load("synthetic-flower")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "flowers.zip").touch()
    with pytest.raises(PipelineError, match=r"neither a folder nor a \.parquet or \.csv file"):
        load(tmp_path / "flowers.zip")


def test_all_that_is_wrong_with_the_arguments_is_said_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        load_splits(DataArguments(validation_fraction=1.5, max_train_samples=0))
    assert str(caught.value).splitlines() == [
        "--max_train_samples 0: at least 1 is needed.",
        "--validation_fraction 1.5: a share between 0 and 1 is needed.",
        "No data: pass --dataset_name FOLDER, a Hub id (OWNER/NAME), or synthetic-flowers.",
    ]


# --- columns


def write_columns(folder: Path, **features: Any) -> Path:
    """Write a table of one row with these columns."""
    values = {
        name: 0 if isinstance(feature, datasets.ClassLabel) else {"bytes": picture(), "path": None}
        for name, feature in features.items()
    }
    table = datasets.Dataset.from_list([values] * 4, features=datasets.Features(features))
    table.to_parquet(folder / "train.parquet")
    return folder


TWO = datasets.ClassLabel(names=["a", "b"])
IMAGE = datasets.Image(decode=False)


def test_several_image_columns_are_refused_by_name(tmp_path: Path) -> None:
    write_columns(tmp_path, photo=IMAGE, mask=IMAGE, label=TWO)
    with pytest.raises(PipelineError, match=r"Several columns hold images: photo, mask\. Pass --image_column_name"):
        load(tmp_path)


def test_several_label_columns_are_refused_by_name(tmp_path: Path) -> None:
    write_columns(tmp_path, photo=IMAGE, colour=TWO, shape=TWO)
    with pytest.raises(PipelineError, match=r"Several columns hold labels: colour, shape\. Pass --label_column_name"):
        load(tmp_path)


def test_no_label_column_is_refused_with_the_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"], label="remarks")
    with pytest.raises(PipelineError, match=r"No column of labels among: image, remarks\. Pass --label_column_name"):
        load(tmp_path)


@pytest.mark.parametrize("flag", ["image_column_name", "label_column_name"])
def test_a_named_column_that_is_missing_is_refused_with_the_nearest(flag: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"], image="photograph", label="specimen")
    wrong = {"image_column_name": "photographs", "label_column_name": "speciman"}[flag]
    with pytest.raises(PipelineError, match=rf"--{flag} {wrong}: no such column \(did you mean .*there are: photo"):
        load(tmp_path, **{flag: wrong})


def test_a_named_column_without_images_is_refused(tmp_path: Path) -> None:
    write_columns(tmp_path, image=IMAGE, label=TWO)
    with pytest.raises(PipelineError, match="--image_column_name label: that column holds ClassLabel"):
        load(tmp_path, image_column_name="label")


def test_columns_are_chosen_by_flag_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    labels = [0, 0, 1, 1]
    rows = [{"bytes": picture(), "path": None}] * 4
    table = {"image": rows, "mask": rows, "label": [0] * 4, "colour": labels}
    features = datasets.Features({"image": IMAGE, "mask": IMAGE, "label": TWO, "colour": TWO})
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    splits = load(tmp_path, image_column_name="mask", label_column_name="colour")
    assert_shape(splits, "train", "validation")
    assert f"{tmp_path} is read as Parquet: images in 'mask', labels in 'colour'" in caplog.text


def test_of_coarse_and_fine_labels_the_fine_are_taken(tmp_path: Path) -> None:
    rows = [{"bytes": picture(), "path": None}] * 4
    features = datasets.Features({"img": IMAGE, "coarse_label": TWO, "fine_label": TWO})
    table = {"img": rows, "coarse_label": [0] * 4, "fine_label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    assert set(labels_of(load(tmp_path)["train"])) == {"a", "b"}


def test_a_split_without_the_image_column_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    write_parquet(tmp_path / "test.parquet", ["a", "b"], image="photo")
    with pytest.raises(PipelineError, match="test has no column 'image'; it has: photo, label"):
        load(tmp_path)


# --- labels


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        ([5, 12, 5, 7], "int64", ["5", "7", "12"]),
        ([1, 2, 1, 10], "uint8", ["1", "2", "10"]),
        (["10", "9", "9", "b"], "string", ["9", "10", "b"]),
        ([True, False, True, False], "bool", ["false", "true"]),
        ([2.0, 1.0, None, 2.0], "float64", ["1", "2"]),
    ],
)
def test_labels_of_any_kind(values: list[Any], kind: str, names: list[str], tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", values, feature=datasets.Value(kind))
    write_parquet(tmp_path / "validation.parquet", values, feature=datasets.Value(kind))
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation")
    assert names_of(splits["train"]) == names
    spelled = [str(value).lower().removesuffix(".0") for value in values if value is not None]
    assert labels_of(splits["train"]) == spelled


@pytest.mark.parametrize(
    ("values", "feature", "match"),
    [
        ([0.5, 1.0], datasets.Value("float64"), "numbers that are no labels"),
        ([[0, 1], [1]], datasets.List(datasets.Value("int64")), "one label an image is needed"),
        ([b"a", b"b"], datasets.Value("binary"), "one label an image is needed"),
    ],
)
def test_labels_that_are_none_are_refused(values: list[Any], feature: Any, match: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", values, feature=feature, label="target")
    with pytest.raises(PipelineError, match=f"Column target holds .*{match}"):
        load(tmp_path, image_column_name="image")


def test_a_label_beyond_the_names_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 7], feature=TWO)
    with pytest.raises(PipelineError, match="Column label: label 7 is beyond its 2 names"):
        load(tmp_path)


def test_names_keep_the_order_of_train_and_splits_are_mapped_to_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 1], feature=datasets.ClassLabel(names=["z", "a"]))
    write_parquet(tmp_path / "validation.parquet", [0, 1], feature=datasets.ClassLabel(names=["a", "z"]))
    write_parquet(tmp_path / "test.parquet", ["z", "a"])
    splits = load(tmp_path)
    assert names_of(splits["train"]) == ["z", "a"]
    assert splits["validation"]["label"][:] == [1, 0]
    assert splits["test"]["label"][:] == [0, 1]


@pytest.mark.parametrize("none", [None, -1])
def test_rows_without_label_are_dropped_with_a_count(
    none: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, none, 1, none], feature=TWO)
    write_parquet(tmp_path / "test.parquet", [none, none], feature=TWO)
    write_parquet(tmp_path / "validation.parquet", [none, 1, 0], feature=TWO)
    splits = load(tmp_path)
    assert_shape(splits, "train", "validation")
    assert splits["train"]["index"][:] == [0, 2]
    assert splits["validation"]["index"][:] == [1, 2]
    assert warnings_in(caplog) == [
        "test has no labels and is not scored",
        "train: 2 of 4 rows have no label and are left out",
        "validation: 1 of 3 rows have no label and are left out",
    ]


def test_a_split_wholly_without_labels_is_refused_unless_it_is_test(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=TWO)
    write_parquet(tmp_path / "validation.parquet", [-1, -1], feature=TWO)
    with pytest.raises(PipelineError, match="validation has no labels"):
        load(tmp_path)


def test_a_class_that_train_lacks_is_refused_in_every_split_at_once(tmp_path: Path) -> None:
    three = datasets.ClassLabel(names=["a", "b", "c"])
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=three)
    write_parquet(tmp_path / "validation.parquet", [0, 2], feature=three)
    write_parquet(tmp_path / "test.parquet", ["a", "d"])
    with pytest.raises(PipelineError) as caught:
        load(tmp_path)
    assert [line.split(".")[0] for line in str(caught.value).splitlines()] == [
        "validation has classes that train has no image of: 'c'",
        "test has classes that train has no image of: 'd'",
    ]


def test_missing_classes_are_warned_of_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = datasets.ClassLabel(names=[f"c{place}" for place in range(9)])
    write_parquet(tmp_path / "train.parquet", range(8), feature=many)
    write_parquet(tmp_path / "validation.parquet", [0, 1], feature=many)
    assert len(names_of(load(tmp_path)["train"])) == 9
    assert warnings_in(caplog) == [
        "train has no image of 1 of 9 classes: 'c8'",
        "validation has no image of 7 of 9 classes: 'c2', 'c3', 'c4', 'c5', 'c6' and 2 more",
    ]


def test_split_names_as_classes_are_refused(tmp_path: Path) -> None:
    feature = datasets.ClassLabel(names=["test", "train"])
    write_parquet(tmp_path / "all.parquet", [0, 0, 1, 1], feature=feature)
    with pytest.raises(PipelineError, match="The only classes are 'test', 'train', which are names of splits"):
        load(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"rose": 4})
    with pytest.raises(PipelineError, match=r"train has one class only, 'rose'.*at least two"):
        load(tmp_path)


# --- splits and limits


def rows_by_file(splits: datasets.DatasetDict) -> dict[str, list[str]]:
    return {name: [image["path"] for image in split["image"]] for name, split in splits.items()}


def test_validation_is_cut_stratified_and_test_is_never_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    draw_classes(tmp_path / "train", {"a": 20, "b": 40, "c": 2})
    draw_classes(tmp_path / "test", {"a": 3, "b": 3, "c": 3})
    splits = load(tmp_path, validation_fraction=0.25)
    assert_shape(splits, "train", "validation", "test")
    assert Counter(labels_of(splits["train"])) == {"a": 15, "b": 30, "c": 1}
    assert Counter(labels_of(splits["validation"])) == {"a": 5, "b": 10, "c": 1}
    assert len(splits["test"]) == 9
    assert sorted([*splits["train"]["index"], *splits["validation"]["index"]]) == list(range(62))
    assert "no validation split: 16 of 62 train images are cut for it" in caplog.text
    again = load(tmp_path, validation_fraction=0.25)
    assert rows_by_file(again) == rows_by_file(splits)
    other = load(tmp_path, validation_fraction=0.25, split_seed=1)
    assert rows_by_file(other)["validation"] != rows_by_file(splits)["validation"]
    assert rows_by_file(other)["test"] == rows_by_file(splits)["test"]


def test_an_official_validation_split_stays_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    for name in ("train", "validation"):
        draw_classes(tmp_path / name, {"a": 3, "b": 3})
    splits = load(tmp_path)
    assert [len(split) for split in splits.values()] == [6, 6]
    assert "no test split: only validation is scored" in caplog.text


@pytest.mark.parametrize("counts", [[10] * 102, [2] * 50, [3, 500, 7, 41], [2, 2, 1000]])
@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.99])
def test_cuts_keep_every_class_and_the_share(counts: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, cut = cut_rows(labels, fraction=fraction, seed=3)
    assert sorted([*kept, *cut]) == list(range(len(labels)))
    in_cut = np.bincount(labels[cut], minlength=len(counts))
    for count, taken in zip(counts, in_cut, strict=True):
        assert 1 <= taken <= count - 1
        assert abs(taken - count * fraction) <= 1 or taken in (1, count - 1)
    if all(1 <= count * fraction <= count - 1 for count in counts):
        assert len(cut) == round(len(labels) * fraction)


def test_choices_do_not_depend_on_the_numbering_of_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 200)
    renumbered = np.array([3, 9, 1, 0, 12, 2, 5])[labels]
    for one, other in zip(
        cut_rows(labels, fraction=0.15, seed=5), cut_rows(renumbered, fraction=0.15, seed=5), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(limit_rows(labels, limit=33, seed=5), limit_rows(renumbered, limit=33, seed=5))


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": 5, "b": 1, "c": 1})
    with pytest.raises(PipelineError, match="train is too small to split: one image only of 'b', 'c'"):
        load(tmp_path)


@pytest.mark.parametrize(("limit", "expected"), [(6, [2, 2, 2]), (10, [4, 4, 2]), (999, [20, 10, 2])])
def test_limits_are_balanced_over_classes(limit: int, expected: list[int], tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        draw_classes(tmp_path / name, {"a": 20, "b": 10, "c": 2})
    splits = load(tmp_path, max_train_samples=limit, max_eval_samples=3, max_test_samples=1)
    assert [Counter(labels_of(splits["train"]))[name] for name in "abc"] == expected
    assert sorted(labels_of(splits["validation"])) == ["a", "b", "c"]
    assert len(splits["test"]) == 1


def test_limits_are_seeded_and_not_the_first_rows(tmp_path: Path) -> None:
    draw_classes(tmp_path / "train", {"a": 30, "b": 30})
    draw_classes(tmp_path / "validation", {"a": 1, "b": 1})
    rows = {seed: load(tmp_path, max_train_samples=10, split_seed=seed)["train"]["index"][:] for seed in (1, 2)}
    assert rows[1] != rows[2]
    assert load(tmp_path, max_train_samples=10, split_seed=1)["train"]["index"][:] == rows[1]
    assert rows[1] == sorted(rows[1])
    assert rows[1] != [*range(5), *range(30, 35)]


def test_the_only_split_is_train_whatever_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "test.parquet", ["a", "b"] * 3)
    assert_shape(load(tmp_path), "train", "validation")
    assert "the only split, test, is taken for train" in warnings_in(caplog)


def test_no_train_split_is_refused(tmp_path: Path) -> None:
    for name in ("validation", "test"):
        write_parquet(tmp_path / f"{name}.parquet", ["a", "b"])
    with pytest.raises(PipelineError, match="no train split; there are: validation, test"):
        load(tmp_path)


def test_bad_images_fail_or_are_skipped_in_every_split(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        draw_classes(tmp_path / name, {"a": 2, "b": 2})
    (tmp_path / "test" / "b" / "0.png").write_bytes(b"damaged")
    with pytest.raises(PipelineError, match=r"test: 1 of 4 images cannot be read: .*/test/b/0\.png: not an image"):
        load(tmp_path)
    splits = load(tmp_path, bad_images="skip")
    assert splits["test"]["index"][:] == [0, 1, 3]


# --- one split for a model


def score(source: Path, *names: str, split: str | None = None, **arguments: Any) -> tuple[str, datasets.Dataset]:
    return load_split(DataArguments(dataset_name=str(source), **arguments), split=split, class_names=list(names))


def test_labels_are_aligned_to_the_model_by_name(tmp_path: Path) -> None:
    draw_classes(tmp_path / "test", {"a": 1, "b": 2})
    name, rows = score(tmp_path, "z", "b", "a")
    assert (name, rows["label"][:]) == ("test", [2, 1, 1])
    assert names_of(rows) == ["z", "b", "a"]
    assert rows["index"][:] == [0, 1, 2]


def test_numbers_without_names_are_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [2, 0], feature=datasets.Value("int64"))
    assert score(tmp_path, "0", "1", "2")[1]["label"][:] == [2, 0]


def test_a_class_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    draw_classes(tmp_path / "test", {"a": 1, "tulip": 2})
    with pytest.raises(PipelineError, match="test: the model does not know 'tulip'; it knows 'a', 'b'"):
        score(tmp_path, "a", "b")


def test_the_split_is_test_or_validation_or_all(tmp_path: Path) -> None:
    draw_classes(tmp_path / "train", {"a": 3, "b": 3})
    assert score(tmp_path, "a", "b")[0] == "all"
    draw_classes(tmp_path / "validation", {"a": 1, "b": 1})
    assert score(tmp_path, "a", "b")[0] == "validation"
    draw_classes(tmp_path / "test", {"a": 1})
    assert score(tmp_path, "a", "b")[0] == "test"
    name, rows = score(tmp_path, "b", "a", split="all")
    assert (name, rows["index"][:]) == ("all", list(range(9)))
    assert labels_of(rows) == ["a"] * 3 + ["b"] * 3 + ["a", "b", "a"]


def test_all_counts_through_rows_without_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, -1, 1], feature=TWO)
    write_parquet(tmp_path / "test.parquet", [-1, 1], feature=TWO)
    _, rows = score(tmp_path, "a", "b", split="all")
    assert list(zip(rows["index"], labels_of(rows), strict=True)) == [(0, "a"), (2, "b"), (4, "b")]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    draw_classes(tmp_path / "train", {"a": 3, "b": 3})
    with pytest.raises(PipelineError, match="no test split; pass --split train or all"):
        score(tmp_path, "a", "b", split="test")


def test_a_cut_split_is_the_one_that_training_had(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": 12, "b": 17, "c": 5})
    trained = load(tmp_path)
    for split in ("train", "validation"):
        name, rows = score(tmp_path, "c", "unused", "a", "b", split=split)
        assert name == split
        assert rows["index"][:] == trained[split]["index"][:]
        assert labels_of(rows) == labels_of(trained[split])


def test_scored_splits_keep_to_limits_and_to_the_policy(tmp_path: Path) -> None:
    draw_classes(tmp_path / "test", {"a": 3, "b": 3})
    assert len(score(tmp_path, "a", "b", max_test_samples=2)[1]) == 2
    (tmp_path / "test" / "a" / "0.png").write_bytes(b"damaged")
    with pytest.raises(PipelineError, match="test: 1 of 6 images cannot be read"):
        score(tmp_path, "a", "b")
    assert len(score(tmp_path, "a", "b", bad_images="skip")[1]) == 5


# --- fingerprint


def test_fingerprint_is_the_same_elsewhere_and_in_another_process(tmp_path: Path) -> None:
    here = draw_classes(tmp_path / "here", {"a": 4, "b": 4})
    there = draw_classes(tmp_path / "elsewhere" / "there", {"a": 4, "b": 4})
    expected = fingerprint(load(here))
    assert len(expected) == 16
    program = (
        "from pipeline.config import DataArguments\n"
        "from pipeline.data.sources import fingerprint, load_splits\n"
        f"print(fingerprint(load_splits(DataArguments(dataset_name={str(there)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == expected


def test_fingerprint_changes_with_the_data(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "flowers", {"a": 4, "b": 4})
    seen = [fingerprint(load(root))]
    for change in (
        lambda: draw(root, "a/9.png"),
        lambda: (root / "a" / "9.png").rename(root / "b" / "9.png"),
        lambda: (root / "b" / "9.png").rename(root / "b" / "8.png"),
        lambda: PIL.Image.new("RGB", (50, 50)).save(root / "a" / "0.png"),
        lambda: (root / "b").rename(root / "c"),
        (root / "a" / "1.png").unlink,
    ):
        change()
        seen.append(fingerprint(load(root)))
    seen.append(fingerprint(load(root, split_seed=1)))
    seen.append(fingerprint(load(root, max_train_samples=4)))
    assert len(set(seen)) == len(seen)


def test_fingerprint_of_embedded_images_follows_the_selection(tmp_path: Path) -> None:
    images = [{"bytes": picture() + b"\0" * place, "path": None} for place in range(6)]
    write_parquet(tmp_path / "train.parquet", ["a", "b"] * 3, images=images)
    write_parquet(tmp_path / "validation.parquet", ["a", "b"])
    before = fingerprint(load(tmp_path, max_train_samples=4))
    assert fingerprint(load(tmp_path, max_train_samples=4)) == before
    kept = load(tmp_path, max_train_samples=4)["train"]["index"][0]
    images[kept]["bytes"] += b"\0"
    write_parquet(tmp_path / "train.parquet", ["a", "b"] * 3, images=images)
    assert fingerprint(load(tmp_path, max_train_samples=4)) != before


# --- the real thing


@pytest.mark.skipif(not (SHARED / "flowers102-64px").is_dir(), reason="needs the shared Flowers-102 at 64 px")
def test_flowers102() -> None:
    splits = load(SHARED / "flowers102-64px")
    assert_shape(splits, "train", "validation")
    assert [len(split) for split in splits.values()] == [1020, 1020]
    assert len(names_of(splits["train"])) == 102
    assert set(Counter(splits["train"]["label"]).values()) == {10}


def test_synthetic_flowers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = dataclasses.replace(
        SOURCES["synthetic-flowers"],
        read=lambda _name, _args: load_synthetic(num_species=3, train=4, validation=2, test=2, size=16),
    )
    monkeypatch.setitem(SOURCES, "synthetic-flowers", drawn)
    splits = load("synthetic-flowers", max_train_samples=6)
    assert_shape(splits, "train", "validation", "test")
    assert set(Counter(splits["train"]["label"]).values()) == {2}
    assert len(names_of(splits["train"])) == 3
