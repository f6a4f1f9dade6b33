"""A name becomes the same three columns; one split of it is scored; its fingerprint."""

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
from pipeline.data.source_types import SOURCE_TYPES
from pipeline.data.sources import fingerprint, load_split, load_splits
from pipeline.errors import PipelineError
from pipeline.synthetic.dataset import load_synthetic
from tests.conftest import SHARED
from tests.data.conftest import TWO, assert_shape, draw, draw_classes, labels_of, load, names_of, picture, write_parquet

pytestmark = pytest.mark.usefixtures("empty_cache")


CHECKOUT = Path(__file__).parents[2]


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
    with pytest.raises(PipelineError, match=r"neither a folder nor a \.parquet, \.csv or \.jsonl file"):
        load(tmp_path / "flowers.zip")


def test_all_that_is_wrong_with_the_arguments_is_said_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        load_splits(DataArguments(validation_fraction=1.5, max_train_samples=0))
    assert str(caught.value).splitlines() == [
        "--max_train_samples 0: at least 1 is needed.",
        "--validation_fraction 1.5: a share between 0 and 1 is needed.",
        "No data: pass --dataset_name FOLDER, a Hub id (OWNER/NAME), or synthetic-flowers.",
    ]


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
        "from pipeline.arguments.data import DataArguments\n"
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
        SOURCE_TYPES["synthetic-flowers"],
        read=lambda _name, _args: load_synthetic(num_species=3, train=4, validation=2, test=2, size=16),
    )
    monkeypatch.setitem(SOURCE_TYPES, "synthetic-flowers", drawn)
    splits = load("synthetic-flowers", max_train_samples=6)
    assert_shape(splits, "train", "validation", "test")
    assert set(Counter(splits["train"]["label"]).values()) == {2}
    assert len(names_of(splits["train"])) == 3
