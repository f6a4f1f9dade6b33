"""Dataset names are resolved to splits in one format, single splits are loaded for evaluation, and fingerprints."""

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.report import fingerprint
from pipeline.data.source_types import SOURCE_TYPES
from pipeline.data.sources import load_split, load_splits
from pipeline.errors import PipelineError
from pipeline.synthetic.dataset import load_synthetic
from tests.conftest import SHARED
from tests.data.conftest import (
    TWO_CLASSES,
    assert_format,
    class_names_of,
    label_names_of,
    load,
    png_bytes,
    save_class_folders,
    save_images,
    write_parquet,
)

pytestmark = pytest.mark.usefixtures("empty_cache")


CHECKOUT = Path(__file__).parents[2]


# --- dataset names


@pytest.mark.parametrize("name", ["./flowers", "~/no-such-flowers", "/no/flowers", r"data\flowers", "a/b/c", "flowers"])
def test_missing_folder_raises_an_error(name: str) -> None:
    with pytest.raises(
        PipelineError, match=r"^dataset .* not found.*: pass an existing folder or a Hub id \(OWNER/NAME\)$"
    ):
        load(name)


def test_missing_subfolder_of_an_existing_folder_is_not_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="dataset data/flowers not found"):
        load("data/flowers")


def test_misspelled_built_in_name_gets_a_suggestion() -> None:
    with pytest.raises(PipelineError, match="did you mean 'synthetic-flowers'"):
        load("synthetic-flower")


def test_unsupported_file_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "flowers.xyz").touch()
    with pytest.raises(PipelineError, match=r"is not a supported file: pass a folder or a file \.parquet, \.csv"):
        load(tmp_path / "flowers.xyz")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a b.zip", "unzip '{folder}/a b.zip' -d '{folder}/a b'"),
        ("a.tar.gz", "mkdir {folder}/a && tar -xf {folder}/a.tar.gz -C {folder}/a"),
        ("a.7z", "7z x {folder}/a.7z -o{folder}/a"),
    ],
)
def test_archives_raise_an_error_with_the_command_that_unpacks_them(name: str, command: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(PipelineError, match="unpack it first") as caught:
            load(source)
        assert str(caught.value).endswith(command.format(folder=tmp_path))


def test_json_files_that_are_not_tables_do_not_hide_class_folders(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{name}/{number}.png" for name in "ab" for number in range(2)))
    (tmp_path / "downloads.json").write_text('[{"file": "a/0.png", "status": "done"}]')
    (tmp_path / "cat_to_name.json").write_text('{"1": "rose"}')
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["a", "b"]
    note = splits.report.notes[0]
    assert note.startswith(
        "reading class folders and ignoring 'cat_to_name.json', 'downloads.json', which can be tables: pass one with"
    )
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(PipelineError, match=r"coco\.json is not a table: convert it to a CSV file"):
        load(tmp_path / "coco.json")


def test_json_names_without_a_file_do_not_hide_class_folders(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{name}/{number}.png" for name in ("a", "b.json") for number in range(2)))
    (tmp_path / "lost.json").symlink_to("nowhere")
    assert class_names_of(load(tmp_path)["train"]) == ["a", "b.json"]


def test_all_invalid_arguments_are_reported_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        load_splits(DataArguments(validation_fraction=1.5, max_train_samples=0))
    assert str(caught.value).splitlines() == [
        "--validation_fraction 1.5 is out of range: use a value between 0 and 1 (excluding 0 and 1)",
        "--max_train_samples 0 is out of range: use a value of at least 1",
        "no dataset given: pass --dataset_name FOLDER, a Hub id (OWNER/NAME) or synthetic-flowers",
    ]


# --- one split for evaluation


def load_for_model(
    source: Path, *names: str, split: str | None = None, **arguments: Any
) -> tuple[str, datasets.Dataset]:
    args = DataArguments(dataset_name=str(source), **arguments)
    ((name, rows),) = load_split(args, split=split, class_names=list(names)).items()
    return name, rows


def test_labels_are_aligned_with_the_model_by_name(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "test", {"a": 1, "b": 2})
    name, rows = load_for_model(tmp_path, "z", "b", "a")
    assert (name, rows["label"][:]) == ("test", [2, 1, 1])
    assert class_names_of(rows) == ["z", "b", "a"]
    assert rows["index"][:] == [0, 1, 2]


def test_integer_labels_without_names_match_class_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [2, 0], feature=datasets.Value("int64"))
    assert load_for_model(tmp_path, "0", "1", "2")[1]["label"][:] == [2, 0]


def test_class_missing_from_the_model_raises_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "test", {"a": 1, "tulip": 2})
    with pytest.raises(
        PipelineError,
        match=r"test has classes that the model does not have: 'tulip' \(classes of the model: 'a', 'b'\)",
    ):
        load_for_model(tmp_path, "a", "b")


def test_default_split_is_test_then_validation_then_all(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "train", {"a": 3, "b": 3})
    assert load_for_model(tmp_path, "a", "b")[0] == "all"
    save_class_folders(tmp_path / "validation", {"a": 1, "b": 1})
    assert load_for_model(tmp_path, "a", "b")[0] == "validation"
    save_class_folders(tmp_path / "test", {"a": 1})
    assert load_for_model(tmp_path, "a", "b")[0] == "test"
    name, rows = load_for_model(tmp_path, "b", "a", split="all")
    assert (name, rows["index"][:]) == ("all", list(range(9)))
    assert label_names_of(rows) == ["a"] * 3 + ["b"] * 3 + ["a", "b", "a"]


def test_index_of_all_splits_counts_unlabeled_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, -1, 1], feature=TWO_CLASSES)
    write_parquet(tmp_path / "test.parquet", [-1, 1], feature=TWO_CLASSES)
    _, rows = load_for_model(tmp_path, "a", "b", split="all")
    assert list(zip(rows["index"], label_names_of(rows), strict=True)) == [(0, "a"), (2, "b"), (4, "b")]


def test_missing_split_raises_an_error_with_the_existing_splits(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "train", {"a": 3, "b": 3})
    with pytest.raises(PipelineError, match="has no test split: pass --split train or all"):
        load_for_model(tmp_path, "a", "b", split="test")


def test_held_out_validation_split_is_the_same_as_in_training(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"a": 12, "b": 17, "c": 5})
    trained = load(tmp_path)
    for split in ("train", "validation"):
        name, rows = load_for_model(tmp_path, "c", "unused", "a", "b", split=split)
        assert name == split
        assert rows["index"][:] == trained[split]["index"][:]
        assert label_names_of(rows) == label_names_of(trained[split])


def test_sample_limit_and_bad_images_policy_apply_to_a_single_split(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "test", {"a": 3, "b": 3})
    assert len(load_for_model(tmp_path, "a", "b", max_test_samples=2)[1]) == 2
    (tmp_path / "test" / "a" / "0.png").write_bytes(b"damaged")
    with pytest.raises(PipelineError, match="test: 1 of 6 images cannot be read"):
        load_for_model(tmp_path, "a", "b")
    assert len(load_for_model(tmp_path, "a", "b", bad_images="skip")[1]) == 5


# --- fingerprint


def test_fingerprint_is_the_same_in_another_folder_and_process(tmp_path: Path) -> None:
    original = save_class_folders(tmp_path / "original", {"a": 4, "b": 4})
    copy = save_class_folders(tmp_path / "other" / "copy", {"a": 4, "b": 4})
    expected = fingerprint(load(original))
    assert len(expected) == 16
    program = (
        "from pipeline.arguments.data import DataArguments\n"
        "from pipeline.data.report import fingerprint\n"
        "from pipeline.data.sources import load_splits\n"
        f"print(fingerprint(load_splits(DataArguments(dataset_name={str(copy)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == expected


def test_fingerprint_changes_with_the_data(tmp_path: Path) -> None:
    root = save_class_folders(tmp_path / "flowers", {"a": 4, "b": 4})
    seen = [fingerprint(load(root))]
    for change in (
        lambda: save_images(root, "a/9.png"),
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


def test_fingerprint_of_embedded_images_depends_on_the_selected_rows(tmp_path: Path) -> None:
    images = [{"bytes": png_bytes() + b"\0" * number, "path": None} for number in range(6)]
    write_parquet(tmp_path / "train.parquet", ["a", "b"] * 3, images=images)
    write_parquet(tmp_path / "validation.parquet", ["a", "b"])
    before = fingerprint(load(tmp_path, max_train_samples=4))
    assert fingerprint(load(tmp_path, max_train_samples=4)) == before
    selected = load(tmp_path, max_train_samples=4)["train"]["index"][0]
    images[selected]["bytes"] += b"\0"
    write_parquet(tmp_path / "train.parquet", ["a", "b"] * 3, images=images)
    assert fingerprint(load(tmp_path, max_train_samples=4)) != before


# --- real datasets


@pytest.mark.skipif(not (SHARED / "flowers102-64px").is_dir(), reason="needs the shared Flowers-102 at 64 px")
def test_shared_flowers102_has_balanced_classes() -> None:
    splits = load(SHARED / "flowers102-64px")
    assert_format(splits, "train", "validation")
    assert [len(split) for split in splits.values()] == [1020, 1020]
    assert len(class_names_of(splits["train"])) == 102
    assert set(Counter(splits["train"]["label"]).values()) == {10}


def test_synthetic_flowers_are_loaded_with_a_balanced_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(
        SOURCE_TYPES["synthetic-flowers"],
        read=lambda _name, _args: load_synthetic(num_species=3, train=4, validation=2, test=2, size=16),
    )
    monkeypatch.setitem(SOURCE_TYPES, "synthetic-flowers", small)
    splits = load("synthetic-flowers", max_train_samples=6)
    assert_format(splits, "train", "validation", "test")
    assert set(Counter(splits["train"]["label"]).values()) == {2}
    assert len(class_names_of(splits["train"])) == 3
