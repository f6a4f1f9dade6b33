"""Images are what the transformers pipeline sees, and bad ones fail or are left out, as the policy says."""

import io
import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
from transformers.image_utils import load_image

from pipeline.data import bad_images
from pipeline.data.bad_images import check_images
from pipeline.errors import PipelineError
from pipeline.images.decode import IMAGE_FORMATS, open_image
from pipeline.images.pixels import to_rgb
from tests.images.hazards import ORIENTATION, encoded, noise


def row(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("L", "PNG"),
        ("1", "PNG"),
        ("P", "PNG"),
    ],
)
def test_opaque_images_equal_those_of_the_transformers_pipeline(mode: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(encoded(noise(mode), kind))
    ours = open_image(file, name="image")
    assert ours.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(load_image(str(file))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(noise(), "PNG", exif=exif)
    ours = open_image(row(data), name="image")
    expected = load_image(PIL.Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))
    assert ours.size == ((40, 24) if orientation <= 4 else (24, 40))
    np.testing.assert_array_equal(np.asarray(to_rgb(ours)), np.asarray(ours))


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_every_format_that_is_listed_can_be_read(kind: str, tmp_path: Path) -> None:
    for extension in IMAGE_FORMATS[kind]:
        file = tmp_path / f"image{extension}"
        file.write_bytes(encoded(noise(), kind))
        assert open_image(file, name="image").size == (40, 24)


def test_bytes_win_over_the_path(tmp_path: Path) -> None:
    decoy = tmp_path / "decoy.png"
    noise(size=(7, 7)).save(decoy)
    assert open_image(row(encoded(noise()), str(decoy)), name="image").size == (40, 24)
    assert open_image(row(None, str(decoy)), name="image").size == (7, 7)


def split_of(rows: list[dict[str, Any] | None]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(decode=False), "index": datasets.Value("int64")})
    table = {"image": rows, "index": [100 + place for place in range(len(rows))]}
    return datasets.Dataset.from_dict(table, features=features)


def test_good_images_are_left_alone() -> None:
    split = split_of([row(encoded(noise(), kind)) for kind in ("PNG", "JPEG", "WEBP")])
    assert check_images(split, policy="fail", split_name="train") is split


def test_fail_names_five_counts_all_and_says_what_to_type(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | None] = [row(b"nothing", f"{place}.png") for place in range(6)]
    split = split_of([row(encoded(noise())), *rows, row(None, str(tmp_path / "gone.png"))])
    with pytest.raises(PipelineError) as caught:
        check_images(split, policy="fail", split_name="test")
    text = str(caught.value)
    assert text.startswith("test: 7 of 8 images cannot be read: row 101 (0.png): not an image")
    assert text.count("not an image") == 5
    assert text.endswith("; and 2 more\nMend or remove them, or pass --bad_images skip.")


def test_skip_drops_them_with_one_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    split = split_of([row(encoded(noise())), row(b"bad"), row(None, str(tmp_path / "gone.png")), row(encoded(noise()))])
    kept = check_images(split, policy="skip", split_name="train")
    assert kept["index"][:] == [100, 103]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "train: 2 of 4 images cannot be read and are left out: row 101: not an image" in record.getMessage()
    assert f"{tmp_path / 'gone.png'}: no such file" in record.getMessage()


def test_skip_refuses_to_leave_nothing() -> None:
    with pytest.raises(PipelineError, match="train: 1 of 1 images cannot be read, so none is left"):
        check_images(split_of([row(b"bad")]), policy="skip", split_name="train")


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_images, "_SERIAL_BELOW", 4)
    monkeypatch.setattr("pipeline.performance.machine.usable_cores", lambda: 2)


@pytest.mark.usefixtures("few_are_many")
def test_many_images_are_read_by_several_processes(capfd: pytest.CaptureFixture[str]) -> None:
    split = split_of([row(b"bad") if place in (3, 8) else row(encoded(noise())) for place in range(10)])
    assert check_images(split, policy="skip", split_name="train")["index"][:] == [
        100 + place for place in range(10) if place not in (3, 8)
    ]
    assert "Reading every image" not in capfd.readouterr().err


@pytest.mark.usefixtures("few_are_many")
def test_the_verdict_on_stored_images_is_cached(tmp_path: Path) -> None:
    split_of([row(encoded(noise())) for _ in range(10)]).save_to_disk(tmp_path / "split", num_proc=None)
    check_images(datasets.load_from_disk(tmp_path / "split"), policy="fail", split_name="train")
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "split").glob("cache-*.arrow")}
    assert written
    check_images(datasets.load_from_disk(tmp_path / "split"), policy="fail", split_name="train")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "split").glob("cache-*.arrow")} == written
