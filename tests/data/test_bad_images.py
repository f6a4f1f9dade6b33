"""check_images applies the policy for images that cannot be read: fail or skip."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.data import bad_images
from pipeline.data.bad_images import check_images
from pipeline.errors import PipelineError
from tests.images.hazards import encode, noise


def value(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    """Return a value of a `datasets.Image(decode=False)` column."""
    return {"bytes": data, "path": path}


def split_of(images: list[dict[str, Any] | None]) -> datasets.Dataset:
    """Return a split whose `index` counts from 100."""
    features = datasets.Features({"image": datasets.Image(decode=False), "index": datasets.Value("int64")})
    columns = {"image": images, "index": [100 + row for row in range(len(images))]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_split_without_bad_images_is_returned_itself() -> None:
    split = split_of([value(encode(noise(), image_format)) for image_format in ("PNG", "JPEG", "WEBP")])
    assert check_images(split, policy="fail", split_name="train") is split


def test_fail_names_five_images_counts_all_and_says_what_to_do(tmp_path: Path) -> None:
    bad: list[dict[str, Any] | None] = [value(b"nothing", f"{number}.png") for number in range(6)]
    split = split_of([value(encode(noise())), *bad, value(None, str(tmp_path / "gone.png"))])
    with pytest.raises(PipelineError) as caught:
        check_images(split, policy="fail", split_name="test")
    text = str(caught.value)
    assert text.startswith("test: 7 of 8 images cannot be read: row 101 (0.png): not an image")
    assert text.count("not an image") == 5
    assert text.endswith("; and 2 more\nfix or remove them, or pass --bad_images skip")


def test_fail_names_a_file_by_its_path_and_an_empty_cell_by_its_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(encode(noise(size=(64, 64)), "JPEG")[:-400])
    with pytest.raises(PipelineError) as caught:
        check_images(split_of([value(encode(noise())), value(None, str(file)), None]), policy="fail", split_name="test")
    first_line = str(caught.value).splitlines()[0]
    assert first_line.startswith(f"test: 2 of 3 images cannot be read: {file}: ")
    assert "truncated" in first_line.lower()
    assert first_line.endswith("; row 102: no image in this row")


def test_skip_drops_bad_images_with_one_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    good, bad = value(encode(noise())), value(b"bad")
    split = check_images(
        split_of([good, bad, value(None, str(tmp_path / "gone.png")), good]), policy="skip", split_name="train"
    )
    assert split["index"][:] == [100, 103]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "train: 2 of 4 images cannot be read; skipping them: row 101: not an image" in record.getMessage()
    assert f"{tmp_path / 'gone.png'}: no such file" in record.getMessage()


def test_skip_rejects_a_split_that_would_be_empty() -> None:
    with pytest.raises(PipelineError, match="train: 1 of 1 images cannot be read, so the split would be empty"):
        check_images(split_of([value(b"bad")]), policy="skip", split_name="train")


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ten images enough for two processes."""
    monkeypatch.setattr(bad_images, "_MIN_IMAGES_FOR_PROCESSES", 4)
    monkeypatch.setattr("pipeline.performance.machine.usable_cores", lambda: 2)


@pytest.mark.usefixtures("two_processes")
def test_several_processes_check_many_images(capfd: pytest.CaptureFixture[str]) -> None:
    split = split_of([value(b"bad") if row in (3, 8) else value(encode(noise())) for row in range(10)])
    expected = [100 + row for row in range(10) if row not in (3, 8)]
    assert check_images(split, policy="skip", split_name="train")["index"][:] == expected
    assert "Checking images" not in capfd.readouterr().err


@pytest.mark.usefixtures("two_processes")
def test_the_result_for_a_stored_split_is_cached(tmp_path: Path) -> None:
    split_of([value(encode(noise())) for _ in range(10)]).save_to_disk(tmp_path / "split", num_proc=None)
    check_images(datasets.load_from_disk(tmp_path / "split"), policy="fail", split_name="train")
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "split").glob("cache-*.arrow")}
    assert written
    check_images(datasets.load_from_disk(tmp_path / "split"), policy="fail", split_name="train")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "split").glob("cache-*.arrow")} == written
