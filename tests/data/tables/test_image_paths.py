"""Image files are found although their paths do not exist as they are written, and never guessed."""

import logging
import unicodedata
from pathlib import Path

import pytest

from pipeline.data.tables.image_paths import ImageFolder
from pipeline.errors import PipelineError
from tests.data.conftest import save_images, warnings_in


def find(folder: Path, *paths: str | None, split: str | None = None) -> list[str | None]:
    found = ImageFolder(folder).find(list(paths), table=folder / "labels.csv", split=split)
    return [path and path.removeprefix(f"{folder}/") for path in found]


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("images\\1.png", "images/1.png"),
        (r"C:\Users\me\images\1.png", "images/1.png"),
        ("1", "images/1.png"),
        ("1.png", "images/1.png"),
        ("images/1", "images/1.png"),
        ("/data/upload/3/1.png", "images/1.png"),
        ("/data/local-files/?d=images/1.png", "images/1.png"),
        ("../set/images/1.png", "images/1.png"),
        ("images/1.PNG ", "images/1.png"),
        (unicodedata.normalize("NFD", "rosé.png"), "images/" + unicodedata.normalize("NFC", "rosé.png")),
    ],
)
def test_a_file_is_found_by_the_end_of_its_path(
    written: str, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    save_images(tmp_path, file, "images/2.png")
    assert find(tmp_path, written, None) == [file, None]
    assert f"1 of 1 image paths that do not exist were found below {tmp_path} by their names" in caplog.text


def test_the_longest_end_of_a_path_decides(tmp_path: Path) -> None:
    save_images(tmp_path, "cats/1.png", "dogs/1.png", "1.png")
    assert find(tmp_path, "/home/me/cats/1.png", "D:\\dogs\\1.PNG", "1.png") == ["cats/1.png", "dogs/1.png", "1.png"]


def test_several_equal_matches_raise_an_error_with_the_files(tmp_path: Path) -> None:
    save_images(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(PipelineError, match=r"'1' does not exist, and several files match it: 'a/1.png', 'b/1.png'"):
        find(tmp_path, "1")


def test_images_of_another_split_are_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "train_images/1.png", "test_images/1.png", "test_images/2.png")
    assert find(tmp_path, "1", split="training") == ["train_images/1.png"]
    assert find(tmp_path, "1", "2", split="test") == ["test_images/1.png", "test_images/2.png"]
    assert find(tmp_path, "2", split="train") == ["2"]
    assert "1 images were not found" in caplog.text


def test_the_image_of_another_row_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "dogs/1.png")
    assert find(tmp_path, "dogs/1.png", "cats/1.png") == ["dogs/1.png", "cats/1.png"]
    assert find(tmp_path, "x/1.png", "y/1.png") == ["x/1.png", "y/1.png"]
    assert "labels.csv: 2 images were not found" in caplog.text


def test_missing_images_are_counted_with_the_nearest_match(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "images/rose_01.png", "images/2.png")
    (tmp_path / "more.zip").touch()
    assert find(tmp_path, "rose_1.png", "none.png", "2.png") == ["rose_1.png", "none.png", "images/2.png"]
    (message,) = warnings_in(caplog)
    assert message.startswith("labels.csv: 2 images were not found: neither relative to the folder of the table")
    assert "(first: 'rose_1.png', nearest match: 'images/rose_01.png'); unpack more.zip first: unzip" in message


def test_unlisted_images_and_folders_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "images/1.png", "images/2.png", "rose/1.png", "aster/1.png")
    ImageFolder(tmp_path).warn_of_unlisted([f"{tmp_path}/images/1.png", None], table_folders=[])
    assert warnings_in(caplog) == [
        f"{tmp_path}/: ignoring 1 images that no table lists: 'images/2.png'",
        f"{tmp_path}/: ignoring folders with images that no table lists: 'aster', 'rose'",
    ]


def test_unlisted_images_are_counted_at_every_depth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "0.png", "images/1.png", "images/deep/er/2.png")
    ImageFolder(tmp_path).warn_of_unlisted([f"{tmp_path}/images/1.png"], table_folders=[])
    assert warnings_in(caplog) == [
        f"{tmp_path}/: ignoring 2 images that no table lists: '0.png', 'images/deep/er/2.png'"
    ]


def test_listed_images_are_known_under_every_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_images(tmp_path, "set/images/1.png", "set/2.png", "set/3.png", "set/4.png")
    (tmp_path / "link").symlink_to("set")
    monkeypatch.chdir(tmp_path / "set")
    folder = ImageFolder(Path())
    written = ["./images/1.png", "images/../2.png", f"{tmp_path}/set/3.png", f"{tmp_path}/link/4.png"]
    folder.warn_of_unlisted(folder.find(written, table=Path("labels.csv"), split=None), table_folders=[])
    assert not warnings_in(caplog)


def test_a_folder_with_the_name_of_an_id_is_not_its_image(tmp_path: Path) -> None:
    save_images(tmp_path, "7/other.png", "images/7.png")
    (found,) = ImageFolder(tmp_path).find(["7"], table=tmp_path / "labels.csv", split=None)
    assert found == f"{tmp_path}/images/7.png"


def test_tables_in_folders_of_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, "images/1.png", "train/2.png")
    for name in ("images/old.csv", "train/labels.csv", "labels.csv"):
        (tmp_path / name).touch()
    listed = [f"{tmp_path}/images/1.png", f"{tmp_path}/train/2.png"]
    ImageFolder(tmp_path).warn_of_unlisted(listed, table_folders=[tmp_path / "train"])
    assert warnings_in(caplog) == [f"{tmp_path}/: ignoring 1 tables in folders of images: 'images/old.csv'"]
