"""open_image reads every listed format exactly as `transformers.pipeline` does."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from transformers.image_utils import load_image

from pipeline.errors import BadImageError
from pipeline.images.decode import IMAGE_FORMATS, open_image
from pipeline.images.pixels import to_rgb
from tests.images.hazards import ORIENTATION, encode, noise


def value(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    """Return a value of a `datasets.Image(decode=False)` column."""
    return {"bytes": data, "path": path}


@pytest.mark.parametrize(
    ("mode", "image_format"),
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
def test_opaque_images_equal_those_of_the_transformers_pipeline(mode: str, image_format: str, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(encode(noise(mode), image_format))
    ours = open_image(file, name="image")
    assert ours.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(load_image(str(file))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(noise(), "PNG", exif=exif)
    ours = open_image(value(data), name="image")
    expected = load_image(PIL.Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))
    assert ours.size == ((40, 24) if orientation <= 4 else (24, 40))
    np.testing.assert_array_equal(np.asarray(to_rgb(ours)), np.asarray(ours))


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_every_listed_format_can_be_read(image_format: str, tmp_path: Path) -> None:
    for extension in IMAGE_FORMATS[image_format]:
        file = tmp_path / f"image{extension}"
        file.write_bytes(encode(noise(), image_format))
        assert open_image(file, name="image").size == (40, 24)


def test_bytes_take_precedence_over_the_path(tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    noise(size=(7, 7)).save(other)
    assert open_image(value(encode(noise()), str(other)), name="image").size == (40, 24)
    assert open_image(value(None, str(other)), name="image").size == (7, 7)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no devices")
def test_what_is_not_a_regular_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("zero.jpg", "pipe.jpg"):
        with pytest.raises(BadImageError, match=rf"^{name}: not a regular file$"):
            open_image(tmp_path / name, name=name)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.images.decode.MAX_BYTES", 2**20)
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.truncate(2**40)  # it has no blocks on the disk
    for value in (tmp_path / "a.jpg", {"bytes": bytes(2**20 + 1), "path": None}):
        with pytest.raises(BadImageError, match=r"^a\.jpg: has more than 1 MB$"):
            open_image(value, name="a.jpg")
