"""Class folders in the layouts that users have are read correctly, or raise an error that names the folder."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from pipeline.errors import PipelineError
from tests.data.conftest import (
    assert_format,
    class_names_of,
    file_names_of,
    label_names_of,
    load,
    save_class_folders,
    save_images,
    warnings_in,
)

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.mark.parametrize("validation", ["validation", "val", "Valid", "DEV"])
def test_split_folders_are_read_under_any_alias(validation: str, tmp_path: Path) -> None:
    for name, count in {"Train": 3, validation: 1, "testing": 2}.items():
        save_class_folders(tmp_path / name, {"rose": count, "aster": count})
    splits = load(tmp_path)
    assert_format(splits, "train", "validation", "test")
    assert {name: label_names_of(split) for name, split in splits.items()} == {
        "train": ["aster"] * 3 + ["rose"] * 3,
        "validation": ["aster", "rose"],
        "test": ["aster"] * 2 + ["rose"] * 2,
    }
    assert splits["train"]["index"][:] == list(range(6))
    assert splits["train"][5]["image"] == {"bytes": None, "path": str(tmp_path / "Train" / "rose" / "2.png")}


def test_numbered_classes_are_sorted_by_number(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"1": 2, "10": 2, "100": 2, "2": 2})
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["1", "2", "10", "100"]
    assert set(label_names_of(splits["train"])) == {"1", "2", "10", "100"}


def test_hidden_and_unsupported_files_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(
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
    listed = [*zip(file_names_of(splits["train"]), label_names_of(splits["train"]), strict=True)]
    listed += zip(file_names_of(splits["validation"]), label_names_of(splits["validation"]), strict=True)
    assert sorted(listed) == [("1.PNG", "a"), ("1.png", "b"), ("2.png", "a"), ("2.png", "b")]
    assert class_names_of(splits["train"]) == ["a", "b"]
    assert f"{tmp_path}: ignoring 1 class folders without images: 'empty'" in warnings_in(caplog)
    assert f"{tmp_path}: ignoring 2 files that are not supported images: 1 .txt, 1 .eps" in warnings_in(caplog)


def test_system_files_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class_folders(tmp_path, {"a": 2, "b": 2})
    save_images(tmp_path, "a/._1.png", "__MACOSX/a/._1.png")  # macOS archives contain the second file
    for junk in ("a/.DS_Store", "a/Thumbs.db", "b/photo.jpg.txt", "b/drawing.svg", "README.md"):
        (tmp_path / junk).write_bytes(b"x")
    splits = load(tmp_path)
    assert sum(map(len, splits.values())) == 4
    assert class_names_of(splits["train"]) == ["a", "b"]
    assert warnings_in(caplog) == [
        f"{tmp_path}: ignoring 3 files that are not supported images: 1 .svg, 1 .txt, 1 .md",
    ]


def test_uppercase_extensions_and_unicode_names_are_read(tmp_path: Path) -> None:
    for number, name in enumerate(("1.JPG", "2.JPEG", "3.Png", "grüße 🌷.jpg", "a'b\"c.jpg", "漢字.WEBP")):
        image_format = {".png": "PNG", ".webp": "WEBP"}.get(Path(name).suffix.lower(), "JPEG")
        for species in ("Röschen", "薔薇"):
            (tmp_path / species).mkdir(exist_ok=True)
            PIL.Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / species / name, image_format)
    splits = load(tmp_path)
    assert sum(map(len, splits.values())) == 12
    assert class_names_of(splits["train"]) == ["Röschen", "薔薇"]


def test_composed_and_decomposed_umlauts_are_the_same_class(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "train", {"Ro\u0308schen": 2, "aster": 2})
    save_class_folders(tmp_path / "test", {"R\u00f6schen": 1, "aster": 1})
    assert label_names_of(load(tmp_path)["test"]) == ["R\u00f6schen", "aster"]


def test_file_name_that_is_not_utf8_raises_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"a": 2, "b": 2})
    os.rename(tmp_path / "a" / "1.png", os.fsencode(tmp_path / "a") + b"/\xff.png")  # noqa: PTH104 (Path does not accept bytes)
    with pytest.raises(PipelineError, match="is not valid UTF-8: rename the file"):
        load(tmp_path)


def test_images_in_subfolders_belong_to_the_class_folder(tmp_path: Path) -> None:
    save_images(tmp_path, "rose/1.png", "rose/2.png", "tulip/wild/1.png", "tulip/garden/red/1.png")
    splits = load(tmp_path)
    assert class_names_of(splits["train"]) == ["rose", "tulip"]
    assert (
        sorted(label_names_of(splits["train"]) + label_names_of(splits["validation"])) == ["rose"] * 2 + ["tulip"] * 2
    )


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    save_images(tmp_path / "elsewhere", "1.png", "2.png")
    root = save_class_folders(tmp_path / "flowers", {"a": 2})
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    splits = load(root)
    assert len(splits["train"]) + len(splits["validation"]) == 5


@pytest.mark.parametrize("target", ["train/a", "train", "."])
def test_link_to_a_parent_folder_adds_no_images(target: str, tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        save_class_folders(tmp_path / split, {"a": 2, "b": 2})
    (tmp_path / "train" / "a" / "loop").symlink_to(tmp_path / target)
    assert label_names_of(load(tmp_path)["train"]) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("target", ["nowhere.png", "gone.png"])
def test_broken_or_circular_link_is_an_unreadable_image(target: str, tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "a" / target)
    with pytest.raises(PipelineError, match=r"1 of . images cannot be read: .*gone\.png: (no such|too many levels)"):
        load(tmp_path)


def test_named_pipe_is_reported_and_not_opened(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"a": 2, "b": 2})
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "a" / "pipe.png")
    with pytest.raises(
        PipelineError, match=r"2 of 4 images cannot be read: .*link\.png: not a regular file; .*pipe\.png"
    ):
        load(tmp_path)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Return a readable folder while running as an unprivileged user, because root ignores permissions."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = save_class_folders(Path(name) / "flowers", {"a": 2, "b": 2})
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
def test_error_names_a_folder_without_read_permission(closed: str, shared_folder: Path) -> None:
    folder = shared_folder / closed
    user = os.geteuid()
    os.seteuid(os.getuid())
    folder.chmod(0)
    os.seteuid(user)
    with pytest.raises(PipelineError, match=rf"^{re.escape(str(folder))}[^\n]* cannot be read: Permission denied$"):
        load(shared_folder)


def test_train_can_be_a_class_name(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"train": 2, "car": 2, "bus": 2})
    assert class_names_of(load(tmp_path)["train"]) == ["bus", "car", "train"]


def test_other_folders_next_to_split_folders_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class_folders(tmp_path / "train", {"a": 2, "b": 2})
    save_class_folders(tmp_path / "extra", {"c": 2})
    assert class_names_of(load(tmp_path)["train"]) == ["a", "b"]
    assert f"{tmp_path}: ignoring folders that are not splits: 'extra'" in warnings_in(caplog)


@pytest.mark.parametrize(
    ("folders", "errors"),
    [
        (["trian", "validation", "test"], ["'trian' looks like train: rename it to 'train'"]),
        (["train", "vaild", "test"], ["'vaild' looks like validation: rename it to 'validation'"]),
        (["train", "validation", "tset"], ["'tset' looks like test: rename it to 'test'"]),
        (
            ["trian", "vaild", "Test"],
            [
                "'trian' looks like train: rename it to 'train'",
                "'vaild' looks like validation: rename it to 'validation'",
            ],
        ),
        (
            ["training_set", "test_set"],
            [
                "'test_set' looks like test: rename it to 'test'",
                "'training_set' looks like train: rename it to 'train'",
            ],
        ),
        (
            ["seg_train", "seg_test", "seg_pred"],
            ["'seg_test' looks like test: rename it to 'test'", "'seg_train' looks like train: rename it to 'train'"],
        ),
    ],
)
def test_misspelled_split_folders_raise_an_error(folders: list[str], errors: list[str], tmp_path: Path) -> None:
    for folder in folders:
        save_class_folders(tmp_path / folder, {"rose": 2, "aster": 2})
    with pytest.raises(PipelineError) as caught:
        load(tmp_path)
    assert str(caught.value).splitlines() == [f"{tmp_path}: {error}" for error in errors]


def test_class_names_similar_to_split_names_are_accepted(tmp_path: Path) -> None:
    names = ["rain", "strain", "terrain", "test_tube", "train_station", "vest"]
    save_images(tmp_path, *(f"{name}/{number}.png" for name in names for number in range(2)), "terrain/rocks/1.png")
    assert class_names_of(load(tmp_path)["train"]) == names


def test_missing_train_folder_raises_an_error(tmp_path: Path) -> None:
    for name in ("validation", "test", "images"):
        save_class_folders(tmp_path / name, {"rose": 2, "aster": 2})
    with pytest.raises(PipelineError, match="has no train split, only validation, test: add a train split"):
        load(tmp_path)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_images_without_class_folders_raise_an_error(prefix: str, tmp_path: Path) -> None:
    save_images(tmp_path, f"{prefix}1.png", f"{prefix}2.png")
    with pytest.raises(PipelineError, match="the images of train are not in class folders: move each image"):
        load(tmp_path)


def test_folder_without_images_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"contains no supported images: add files with one of the extensions .*\.jpg"
    ):
        load(tmp_path)


def test_two_folders_for_the_same_split_raise_an_error(tmp_path: Path) -> None:
    for name in ("train", "val", "dev"):
        save_class_folders(tmp_path / name, {"a": 1, "b": 1})
    with pytest.raises(PipelineError, match=r"several splits are named like validation \(dev, val\): remove or rename"):
        load(tmp_path)


def test_unlabeled_test_images_are_not_evaluated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class_folders(tmp_path / "train", {"a": 2, "b": 2})
    save_images(tmp_path / "test", "1.png", "2.png")
    assert_format(load(tmp_path), "train", "validation")
    assert "test has no labels; its 2 images will not be evaluated" in warnings_in(caplog)


def test_files_of_operating_systems_are_not_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class_folders(tmp_path / "flowers", {"a": 2, "b": 2})
    save_images(tmp_path, "__MACOSX/flowers/1.png", "flowers/@eaDir/1.png")
    for name in ("desktop.ini", "flowers/Thumbs.db", "flowers/a/.DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    assert class_names_of(load(tmp_path)["train"]) == ["a", "b"]
    assert warnings_in(caplog) == [f"{tmp_path}: reading its only folder, flowers"]


@pytest.mark.parametrize("wrapper", ["flowers", "data/flowers/images"])
def test_wrapper_folders_are_entered(wrapper: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class_folders(tmp_path / wrapper / "train", {"a": 2, "b": 2})
    save_class_folders(tmp_path / wrapper / "val", {"a": 1, "b": 1})
    (tmp_path / "LICENSE").write_text("x")
    splits = load(tmp_path)
    assert_format(splits, "train", "validation")
    assert label_names_of(splits["validation"]) == ["a", "b"]
    assert f"{tmp_path}: reading its only folder, {wrapper}; ignoring 1 files outside it" in warnings_in(caplog)
    assert splits.report.notes == (f"{tmp_path.name}: reading its only folder, {wrapper}; ignoring 1 files outside it",)


def test_wrapper_folders_inside_the_splits_are_entered(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "train" / "images", {"a": 2, "b": 2})
    save_class_folders(tmp_path / "val" / "images", {"a": 1, "b": 1})
    save_images(tmp_path / "test" / "images", "1.png")
    assert_format(load(tmp_path), "train", "validation")


def test_link_to_the_wrapper_folder_ends(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(PipelineError, match="contains no supported images"):
        load(tmp_path)


def test_splits_below_the_classes_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for species in ("rose", "aster"):
        save_class_folders(tmp_path / species, {"train": 3, "val": 2, "test": 1})
    (tmp_path / "empty").mkdir()
    splits = load(tmp_path)
    assert_format(splits, "train", "validation", "test")
    assert {name: label_names_of(split) for name, split in splits.items()} == {
        "train": ["aster"] * 3 + ["rose"] * 3,
        "validation": ["aster"] * 2 + ["rose"] * 2,
        "test": ["aster", "rose"],
    }
    assert f"{tmp_path}: reading the split folders below the class folders: test, train, validation" in warnings_in(
        caplog
    )


def test_splits_below_some_classes_raise_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "rose", {"train": 3, "val": 2})
    save_images(tmp_path, "tulip/1.png", "tulip/2.png")
    with pytest.raises(PipelineError, match=r"'rose' is divided into splits \('train', 'val'\), but not 'tulip'"):
        load(tmp_path)


def test_the_same_classes_in_several_folders_raise_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "batch1", {"cat": 2, "dog": 2})
    save_class_folders(tmp_path / "batch2", {"cat": 2, "bird": 2})
    with pytest.raises(PipelineError) as caught:
        load(tmp_path)
    assert "'batch1', 'batch2' contain the same folders ('bird', 'cat', 'dog')" in str(caught.value)
    assert "pass --class_names FILE with the names of the classes" in str(caught.value)


@pytest.mark.parametrize("names", [["cat", "dog"], ["batch1", "batch2"]])
def test_the_listed_class_names_decide_which_folders_are_the_classes(names: list[str], tmp_path: Path) -> None:
    for batch in ("batch1", "batch2"):
        save_class_folders(tmp_path / "data" / batch, {"cat": 2, "dog": 2})
    (tmp_path / "names.txt").write_text("\n".join(names))
    splits = load(tmp_path / "data", class_names=str(tmp_path / "names.txt"))
    assert class_names_of(splits["train"]) == names
    assert sum(map(len, splits.values())) == 8


def test_the_same_classes_of_several_domains_raise_an_error_below_wrappers(tmp_path: Path) -> None:
    for domain in ("amazon", "dslr"):
        save_class_folders(tmp_path / domain / "images", {"mug": 2, "bike": 2})
    with pytest.raises(PipelineError, match=r"'amazon', 'dslr' contain the same folders \('bike', 'mug'\)"):
        load(tmp_path)


def test_the_same_single_folder_in_each_class_is_part_of_the_class(tmp_path: Path) -> None:
    for species in ("rose", "aster"):
        save_images(tmp_path, *(f"{species}/images/{number}.png" for number in range(2)))
    assert class_names_of(load(tmp_path)["train"]) == ["aster", "rose"]


def test_a_split_one_level_above_the_others_is_read_with_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in {"data/train": 3, "data/val": 2, "test": 1}.items():
        save_class_folders(tmp_path / name, {"a": count, "b": count})
    splits = load(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 4, "test": 2}
    message = f"{tmp_path}: reading the split folders one level below: data/train, data/val"
    assert message in warnings_in(caplog)
    save_class_folders(tmp_path / "data" / "test", {"a": 1, "b": 1})
    with pytest.raises(PipelineError, match="test is at data/test and at test: pass --dataset_name"):
        load(tmp_path)


def test_splits_next_to_folders_with_images_raise_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "data" / "train", {"a": 2, "b": 2})
    save_images(tmp_path, "rose/1.png")
    with pytest.raises(PipelineError, match=r"data holds split folders, and 'rose' hold images: pass --dataset_name"):
        load(tmp_path)


def test_splits_next_to_the_train_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "val"):
        save_class_folders(tmp_path / name, {"a": 2, "b": 2})
    load(tmp_path / "train")
    assert warnings_in(caplog) == [
        f"{tmp_path}/train: not reading the splits next to it (val); --dataset_name {tmp_path} reads all splits"
    ]


def test_two_unicode_forms_of_one_class_raise_an_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"Ro\u0308se": 2, "R\u00f6se": 2, "aster": 2})
    with pytest.raises(PipelineError, match=r"Unicode form: 'Ro\\u0308se' \(2 images\), 'R\\xf6se' \(2 images\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("others", "listed"),
    [
        (["1.png", "2.png"], "2 in '.'"),
        (["extra/deep/1.png", "extra/deep/2.png", "more/3.png"], "2 in 'extra/deep', 1 in 'more'"),
        (["validation/spare/1.png"], "1 in 'validation/spare'"),
    ],
)
def test_images_outside_the_class_folders_are_counted(
    others: list[str], listed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "validation"):
        save_class_folders(tmp_path / split / "images", {"a": 2, "b": 2})
    save_images(tmp_path, *others)
    assert sum(map(len, load(tmp_path).values())) == 8
    warning = f"{tmp_path}: ignoring {len(others)} images outside the folders that are read: {listed}"
    assert warning in warnings_in(caplog)


def test_images_next_to_split_folders_one_level_below_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_class_folders(tmp_path / "data" / "train", {"a": 2, "b": 2})
    save_class_folders(tmp_path / "data" / "spare", {"a": 1})
    save_class_folders(tmp_path / "test", {"a": 1, "b": 1})
    assert_format(load(tmp_path), "train", "validation", "test")
    warning = f"{tmp_path}: ignoring 1 images outside the folders that are read: 1 in 'data/spare/a'"
    assert warning in warnings_in(caplog)
