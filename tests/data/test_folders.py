"""Class folders as people have them: read right, or refused by name."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from pipeline.errors import PipelineError
from tests.data.conftest import assert_shape, draw, draw_classes, files_of, labels_of, load, names_of, warnings_in

pytestmark = pytest.mark.usefixtures("empty_cache")


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


def test_junk_of_other_systems_is_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_classes(tmp_path, {"a": 2, "b": 2})
    draw(tmp_path, "a/._1.png", "__MACOSX/a/._1.png")  # the second is what unpacks beside the folder
    for junk in ("a/.DS_Store", "a/Thumbs.db", "b/photo.jpg.txt", "b/phone.heic", "README.md"):
        (tmp_path / junk).write_bytes(b"x")
    splits = load(tmp_path)
    assert sum(map(len, splits.values())) == 4
    assert names_of(splits["train"]) == ["a", "b"]
    assert warnings_in(caplog) == [
        f"{tmp_path}: files left out that are no images read here: 1 .db, 1 .heic, 1 .txt, 1 .md",
        f"{tmp_path}: class folders without images are left out: '__MACOSX'",
    ]


def test_endings_in_capitals_and_names_in_any_script(tmp_path: Path) -> None:
    for place, name in enumerate(("1.JPG", "2.JPEG", "3.Png", "grüße 🌷.jpg", "a'b\"c.jpg", "漢字.WEBP")):
        kind = {".png": "PNG", ".webp": "WEBP"}.get(Path(name).suffix.lower(), "JPEG")
        for species in ("Röschen", "薔薇"):
            (tmp_path / species).mkdir(exist_ok=True)
            PIL.Image.new("RGB", (2, 2), (place, 0, 0)).save(tmp_path / species / name, kind)
    splits = load(tmp_path)
    assert sum(map(len, splits.values())) == 12
    assert names_of(splits["train"]) == ["Röschen", "薔薇"]


def test_a_class_is_the_same_however_its_umlaut_is_written(tmp_path: Path) -> None:
    draw_classes(tmp_path / "train", {"Ro\u0308schen": 2, "aster": 2})
    draw_classes(tmp_path / "test", {"R\u00f6schen": 1, "aster": 1})
    assert labels_of(load(tmp_path)["test"]) == ["R\u00f6schen", "aster"]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": 2, "b": 2})
    os.rename(tmp_path / "a" / "1.png", os.fsencode(tmp_path / "a") + b"/\xff.png")  # noqa: PTH104 (a Path is text)
    with pytest.raises(PipelineError, match="a file name is not UTF-8"):
        load(tmp_path)


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    draw(tmp_path, "rose/1.png", "rose/2.png", "tulip/wild/1.png", "tulip/garden/red/1.png")
    splits = load(tmp_path)
    assert names_of(splits["train"]) == ["rose", "tulip"]
    assert sorted(labels_of(splits["train"]) + labels_of(splits["validation"])) == ["rose"] * 2 + ["tulip"] * 2


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere", "1.png", "2.png")
    root = draw_classes(tmp_path / "flowers", {"a": 2})
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    splits = load(root)
    assert len(splits["train"]) + len(splits["validation"]) == 5


@pytest.mark.parametrize("target", ["train/a", "train", "."])
def test_a_link_back_up_brings_no_other_class_and_no_other_split(target: str, tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        draw_classes(tmp_path / split, {"a": 2, "b": 2})
    (tmp_path / "train" / "a" / "loop").symlink_to(tmp_path / target)
    assert labels_of(load(tmp_path)["train"]) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("target", ["nowhere.png", "gone.png"])
def test_a_link_to_nothing_or_to_itself_is_a_bad_image(target: str, tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "a" / target)
    with pytest.raises(PipelineError, match=r"1 of . images cannot be read: .*gone\.png: (no such|too many levels)"):
        load(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": 2, "b": 2})
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "a" / "pipe.png")
    assert sum(map(len, load(tmp_path).values())) == 4


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that everybody may enter, while we are nobody: to root nothing is forbidden."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = draw_classes(Path(name) / "flowers", {"a": 2, "b": 2})
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield root
        finally:
            os.seteuid(user)
            for folder in (root, root / "a"):
                folder.chmod(0o755)


@pytest.mark.parametrize("closed", [".", "a"])
def test_a_folder_that_we_may_not_enter_is_named(closed: str, shared_folder: Path) -> None:
    folder = shared_folder / closed
    user = os.geteuid()
    os.seteuid(os.getuid())
    folder.chmod(0)
    os.seteuid(user)
    with pytest.raises(PipelineError, match=rf"^{re.escape(str(folder))}[^\n]*: Permission denied\.$"):
        load(shared_folder)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"train": 2, "car": 2, "bus": 2})
    assert names_of(load(tmp_path)["train"]) == ["bus", "car", "train"]


def test_other_folders_beside_the_splits_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_classes(tmp_path / "train", {"a": 2, "b": 2})
    draw_classes(tmp_path / "extra", {"c": 2})
    assert names_of(load(tmp_path)["train"]) == ["a", "b"]
    assert f"{tmp_path}: folders left out beside the splits: 'extra'" in warnings_in(caplog)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["trian", "validation", "test"], ["'trian' looks like train"]),
        (["train", "vaild", "test"], ["'vaild' looks like validation"]),
        (["train", "validation", "tset"], ["'tset' looks like test"]),
        (["trian", "vaild", "Test"], ["'trian' looks like train", "'vaild' looks like validation"]),
        (["training_set", "test_set"], ["'test_set' looks like test", "'training_set' looks like train"]),
        (["seg_train", "seg_test", "seg_pred"], ["'seg_test' looks like test", "'seg_train' looks like train"]),
    ],
)
def test_a_misspelt_split_is_no_class_and_not_left_out(folders: list[str], said: list[str], tmp_path: Path) -> None:
    for folder in folders:
        draw_classes(tmp_path / folder, {"rose": 2, "aster": 2})
    with pytest.raises(PipelineError) as caught:
        load(tmp_path)
    assert str(caught.value).splitlines() == [f"{tmp_path}: {words}; call it so." for words in said]


def test_classes_with_names_like_those_of_splits_are_classes(tmp_path: Path) -> None:
    names = ["rain", "strain", "terrain", "test_tube", "train_station", "vest"]
    draw(tmp_path, *(f"{name}/{place}.png" for name in names for place in range(2)), "terrain/rocks/1.png")
    assert names_of(load(tmp_path)["train"]) == names


def test_validation_and_test_alone_are_splits_too(tmp_path: Path) -> None:
    for name in ("validation", "test", "images"):
        draw_classes(tmp_path / name, {"rose": 2, "aster": 2})
    with pytest.raises(PipelineError, match="no train split; there are: validation, test"):
        load(tmp_path)


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
