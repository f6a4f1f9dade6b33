"""The report of a dataset names what was decided, without paths of this machine."""

import logging
from pathlib import Path

import datasets
import pytest

from pipeline.data.report import DataReport, collect_notes, describe
from tests.data.conftest import load, save_class_folders, save_images, write_csv

pytestmark = pytest.mark.usefixtures("empty_cache")


def test_the_report_holds_every_warning_without_absolute_paths(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    data = save_class_folders(tmp_path / "photos" / "train", {"rose": 3, "aster": 3}).parent
    save_class_folders(data / "extra", {"rose": 1})
    (data / "train" / "rose" / "0.png").write_bytes(b"damaged")
    (data / "train" / "empty").mkdir()
    splits = load(data, bad_images="skip")
    assert isinstance(splits, datasets.DatasetDict)
    assert isinstance(splits.report, DataReport)
    assert (splits.report.source, splits.report.image_column, splits.report.label_column) == (
        "class folders",
        "image",
        "label",
    )
    extra, empty, unread, bad = splits.report.notes
    assert extra == "photos: ignoring folders that are not splits: 'extra'"
    assert empty == "train: ignoring 1 class folders without images: 'empty'"
    assert unread == "photos: ignoring 1 images outside the folders that are read: 1 in 'extra/rose'"
    assert "1 of " in bad
    assert "train/rose/0.png" in bad
    assert str(tmp_path) not in "".join(splits.report.notes)
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    assert f"using {sizes} images; 2 classes: 'aster', 'rose'" in caplog.text


def test_columns_are_in_the_report(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{number}.png" for number in range(4)))
    write_csv(tmp_path / "train.csv", "file,species", *(f"{number}.png,{'ab'[number % 2]}" for number in range(4)))
    report = load(tmp_path).report
    assert (report.source, report.image_column, report.label_column) == ("CSV", "file", "species")


def test_notes_do_not_name_folders_outside_the_dataset() -> None:
    logger = logging.getLogger("pipeline.data.sources")
    with collect_notes("photos") as notes:
        logger.warning("skipping /home/me/My photos/x.jpg and photos/a.jpg: 1/2 and and/or")
    logger.warning("later")
    assert notes == ["skipping My photos/x.jpg and photos/a.jpg: 1/2 and and/or"]


def test_only_data_of_the_hub_have_a_revision(tmp_path: Path) -> None:
    splits = load(save_class_folders(tmp_path / "photos" / "train", {"rose": 3, "aster": 3}).parent)
    assert describe(splits, str(tmp_path / "photos"), revision="main")["revision"] is None
    assert describe(splits, "owner/photos", revision="main")["revision"] == "main"
