"""Every pixel format, every kind of damage, and the policy for it."""

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
from transformers.image_utils import load_image

from pipeline import runs
from pipeline.data import images
from pipeline.data.images import IMAGE_FORMATS, check_images, open_image, to_rgb
from pipeline.errors import BadImageError, PipelineError

ORIENTATION = 0x0112


def noise(size: tuple[int, int] = (40, 24), *, mode: str = "RGB") -> PIL.Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def row(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def png_with_wrong_checksum() -> bytes:
    data = bytearray(encoded(noise((40, 24))))
    place = data.index(b"IDAT") + 4 + struct.unpack(">I", data[data.index(b"IDAT") - 4 : data.index(b"IDAT")])[0]
    data[place] ^= 0xFF
    return bytes(data)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    chunks = b""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


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
    file.write_bytes(encoded(noise(mode=mode), kind))
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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white_not_the_hidden_colour(mode: str) -> None:
    image = PIL.Image.new("LA", (4, 4), (37, 0))
    image.putpixel((0, 0), (37, 255))
    rgb = to_rgb(image.convert("RGBA").convert("PA") if mode == "PA" else image.convert(mode))
    assert rgb.getpixel((3, 3)) == (255, 255, 255)
    assert rgb.getpixel((0, 0)) == (37, 37, 37)


def test_half_transparent_black_is_grey() -> None:
    assert to_rgb(PIL.Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_palette_colour_is_white(transparency: int | bytes) -> None:
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 10, 100, 30])
    image.putpixel((1, 0), 1)
    rgb = open_image(row(encoded(image, "PNG", transparency=transparency)), name="image")
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 100, 30)]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    rgb = np.asarray(open_image(row(encoded(PIL.Image.fromarray(ramp), "PNG")), name="image"))
    np.testing.assert_array_equal(rgb[..., 0], ramp >> 8)
    wide = to_rgb(PIL.Image.fromarray(ramp.astype(np.int32)))
    np.testing.assert_array_equal(np.asarray(wide), rgb)


@pytest.mark.parametrize(("highest", "expected"), [(1.0, 255), (200.0, 200)])
def test_float_grey_keeps_its_scale(highest: float, expected: int) -> None:
    values = np.array([[0, highest]], dtype=np.float32)
    rgb = open_image(row(encoded(PIL.Image.fromarray(values), "TIFF")), name="image")
    assert rgb.getpixel((1, 0)) == (expected,) * 3


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, np.nan]], dtype=np.float32),
        np.array([[-3, 1]], dtype=np.float32),
        np.array([[0, 1e6]], dtype=np.float32),
        np.array([[0, 70000]], dtype=np.int32),
    ],
)
def test_grey_of_unknown_scale_is_refused(values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(BadImageError, match=r"^scan: .*grey from .* has no known scale"):
        open_image(row(encoded(PIL.Image.fromarray(values), "TIFF")), name="scan")


def test_first_frame_of_an_animation() -> None:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(row(data), name="image").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_every_format_that_is_listed_can_be_read(kind: str, tmp_path: Path) -> None:
    for extension in IMAGE_FORMATS[kind]:
        file = tmp_path / f"image{extension}"
        file.write_bytes(encoded(noise(), kind))
        assert open_image(file, name="image").size == (40, 24)


def test_bytes_win_over_the_path(tmp_path: Path) -> None:
    decoy = tmp_path / "decoy.png"
    noise((7, 7)).save(decoy)
    assert open_image(row(encoded(noise()), str(decoy)), name="image").size == (40, 24)
    assert open_image(row(None, str(decoy)), name="image").size == (7, 7)


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"<html>404</html>", "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n", "not an image"),
    "jpeg, two bytes short": (encoded(noise((64, 64)), "JPEG")[:-2], "truncated|Truncated"),
    "progressive jpeg": (encoded(noise((64, 64)), "JPEG", progressive=True)[:-400], "truncated|Truncated"),
    "png, cut": (encoded(noise())[:-900], ""),
    "png, wrong checksum": (png_with_wrong_checksum(), "checksum"),
    "gif, cut": (encoded(noise(), "GIF")[:-300], "truncated"),
    "webp, cut": (encoded(noise(), "WEBP")[:-100], ""),
    "avif, cut": (encoded(noise(), "AVIF")[:-100], ""),
    "tiff, cut": (encoded(noise(), "TIFF")[:2000], ""),
    "bomb": (png_of(20000, 20000), "decompression bomb"),
    "null": (None, "no image in this row"),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN)
def test_damage_is_one_error_that_names_image_and_reason(data: bytes | None, reason: str) -> None:
    with pytest.raises(BadImageError, match=rf"^row 7: .*({reason})") as caught:
        open_image(row(data), name="row 7")
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def test_missing_file_and_folder_are_bad_images(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"^x\.png: no such file"):
        open_image(tmp_path / "x.png", name="x.png")
    with pytest.raises(BadImageError, match=r"^x: is a directory"):
        open_image(str(tmp_path), name="x")
    with pytest.raises(BadImageError, match="no such file"):
        open_image(row(None, "https://example.com/x.png"), name="x")


def split_of(rows: list[dict[str, Any] | None]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(decode=False), "index": datasets.Value("int64")})
    table = {"image": rows, "index": [100 + place for place in range(len(rows))]}
    return datasets.Dataset.from_dict(table, features=features)


def test_good_images_are_left_alone() -> None:
    split = split_of([row(encoded(noise(), kind)) for kind in ("PNG", "JPEG", "WEBP")])
    assert check_images(split, policy="fail", split_name="train") is split


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "null"])
def test_the_quick_check_finds_all_that_opening_finds(name: str) -> None:
    split = split_of([row(encoded(noise())), row(BROKEN[name][0])])
    with pytest.raises(PipelineError, match="train: 1 of 2 images cannot be read: row 101: "):
        check_images(split, policy="fail", split_name="train")


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
    monkeypatch.setattr(images, "_SERIAL_BELOW", 4)
    monkeypatch.setattr(runs, "usable_cores", lambda: 2)


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
