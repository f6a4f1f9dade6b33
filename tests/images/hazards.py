"""Image files as people have them: for each the pixels that must come out, or the reason why none do.

`READABLE` and `REFUSED` are tables of whole files by what is odd about them; nothing here knows the code under test.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

ORIENTATION = 0x0112
HEIGHT, WIDTH = 24, 40


@dataclass(frozen=True)
class Readable:
    """A file, the pixels (height, width, 3) that it shows, and by how much each may differ."""

    data: bytes
    pixels: Pixels
    tolerance: int = 0
    name: str = "image.png"


@dataclass(frozen=True)
class Refused:
    """A file that shows nothing, and what is said of it: a regular expression."""

    data: bytes
    reason: str
    name: str = "image.png"


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the image as a file of a kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> PIL.Image.Image:
    """Return an image that nothing compresses."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds nothing."""
    chunks = b""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def _gradient() -> Pixels:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 6, rows * 10, 255 - columns * 5], axis=2).astype(np.uint8)


RGB = _gradient()
PICTURE = PIL.Image.fromarray(RGB)
GREY = np.asarray(PICTURE.convert("L"))
RAMP = np.linspace(0, 0xFFFF, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)


def _grey(values: NDArray[Any]) -> Pixels:
    return np.stack([values.astype(np.uint8)] * 3, axis=2)


def _half(value: tuple[int, int, int]) -> Pixels:
    """The left half of a colour, the right half white."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    pixels[:, : WIDTH // 2] = value
    return pixels


def _hidden(mode: str) -> PIL.Image.Image:
    """(39, 53, 20), or its grey, opaque on the left and with an alpha of 0 on the right."""
    image = PIL.Image.new("RGB", (WIDTH, HEIGHT), (39, 53, 20)).convert(mode)
    alpha = PIL.Image.fromarray(_half((0, 0, 0))[..., 0] ^ 0xFF)
    image.putalpha(alpha)
    return image


def _palette(transparent: int) -> PIL.Image.Image:
    image = PIL.Image.fromarray((_half((0, 0, 0))[..., 0] // 255).astype(np.uint8), "P")
    image.putpalette([39, 53, 20, 200, 100, 0] if transparent else [200, 100, 0, 39, 53, 20])
    return image


def _key(mode: str) -> PIL.Image.Image:
    """Colour 50 on the left, 99 on the right."""
    return PIL.Image.fromarray(np.where(_half((0, 0, 0))[..., 0] == 0, 50, 99).astype(np.uint8)).convert(mode)


def _exif(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _with_exif(block: bytes) -> bytes:
    """Return the picture as a JPEG with this EXIF block."""
    data = encoded(PICTURE, "JPEG", quality=95, subsampling=0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]


def _maker_as_a_ratio() -> bytes:
    """Return EXIF data to turn by 90 degrees in which the camera's maker is 1/2: Pillow cannot write them again."""
    entries = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack("<HHII", 0x010F, 5, 1, 38)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<III", 0, 1, 2)


_TURNED: dict[int, Callable[[Pixels], Pixels]] = {  # what was held so is upright after this
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: np.rot90,
    99: lambda pixels: pixels,
}
_FRAMES: dict[str, Any] = {"save_all": True, "append_images": [PIL.Image.new("RGB", (WIDTH, HEIGHT), "blue")]}
_RED = PIL.Image.new("RGB", (WIDTH, HEIGHT), "red")
_ALL_RED = np.full((HEIGHT, WIDTH, 3), (255, 0, 0), dtype=np.uint8)
_CMYK = encoded(PICTURE.convert("CMYK"), "JPEG", quality=95, subsampling=0)
_ADOBE = _CMYK.index(b"\xff\xee\x00\x0eAdobe")

READABLE: dict[str, Readable] = {
    "PNG": Readable(encoded(PICTURE), RGB),
    "PNG named .jpg": Readable(encoded(PICTURE), RGB, name="image.jpg"),
    "JPEG": Readable(encoded(PICTURE, "JPEG", quality=95, subsampling=0), RGB, 4, "image.jpg"),
    "capitals": Readable(encoded(PICTURE, "JPEG", quality=95, subsampling=0), RGB, 4, "IMG_0001.JPG"),
    "name in any script": Readable(encoded(PICTURE), RGB, name="grüße 🌷 漢字 'x'.png"),
    "bad colour profile": Readable(encoded(PICTURE, icc_profile=b"no profile"), RGB),
    "L": Readable(encoded(PICTURE.convert("L")), _grey(GREY)),
    "1": Readable(encoded(PIL.Image.fromarray(GREY > 127)), _grey(np.where(GREY > 127, 255, 0))),
    "CMYK JPEG with Adobe's marker": Readable(_CMYK, RGB, 6, "image.jpg"),
    "CMYK JPEG without": Readable(_CMYK[:_ADOBE] + _CMYK[_ADOBE + 16 :], RGB, 6, "image.jpg"),
    "CMYK TIFF": Readable(encoded(PICTURE.convert("CMYK"), "TIFF"), RGB, 1, "image.tif"),
    "RGBA, alpha 0": Readable(encoded(_hidden("RGB")), _half((39, 53, 20))),
    "LA, alpha 0": Readable(encoded(_hidden("L")), _half((45, 45, 45))),
    "half transparent black": Readable(
        encoded(PIL.Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 128))), _grey(np.full((HEIGHT, WIDTH), 127))
    ),
    "palette, alpha of each colour": Readable(encoded(_palette(1), transparency=b"\xff\0"), _half((39, 53, 20))),
    "palette, a transparent colour": Readable(encoded(_palette(1), transparency=1), _half((39, 53, 20))),
    "GIF, a transparent colour": Readable(
        encoded(_palette(1), "GIF", transparency=1), _half((39, 53, 20)), name="image.gif"
    ),
    "grey, a transparent one": Readable(encoded(_key("L"), transparency=99), _half((50, 50, 50))),
    "RGB, a transparent colour": Readable(encoded(_key("RGB"), transparency=(99, 99, 99)), _half((50, 50, 50))),
    "16-bit grey PNG": Readable(encoded(PIL.Image.fromarray(RAMP)), _grey(RAMP >> 8)),
    "16-bit grey TIFF": Readable(encoded(PIL.Image.fromarray(RAMP), "TIFF"), _grey(RAMP >> 8), name="image.tif"),
    "16-bit grey TIFF, big end first": Readable(
        encoded(PIL.Image.frombytes("I;16B", (WIDTH, HEIGHT), RAMP.astype(">u2").tobytes()), "TIFF"),
        _grey(RAMP >> 8),
        name="image.tif",
    ),
    "32-bit grey TIFF of 16 bits": Readable(
        encoded(PIL.Image.fromarray(RAMP.astype(np.int32)), "TIFF"), _grey(RAMP >> 8), name="image.tif"
    ),
    "float TIFF, 0 to 1": Readable(
        encoded(PIL.Image.fromarray(GREY.astype(np.float32) / GREY.max()), "TIFF"),
        _grey(np.rint(GREY.astype(np.float32) / GREY.max() * 255)),
        name="image.tif",
    ),
    "float TIFF, 0 to 255": Readable(
        encoded(PIL.Image.fromarray(GREY.astype(np.float32)), "TIFF"), _grey(GREY), name="image.tif"
    ),
    **{
        f"EXIF orientation {orientation}": Readable(encoded(PICTURE, exif=_exif(orientation)), turned(RGB))
        for orientation, turned in _TURNED.items()
    },
    "EXIF cut behind the orientation": Readable(_with_exif(_exif(6).tobytes()[6:-3]), _TURNED[6](RGB), 4, "image.jpg"),
    "EXIF cut before it": Readable(_with_exif(_exif(6).tobytes()[6:15]), RGB, 4, "image.jpg"),
    "EXIF of junk": Readable(_with_exif(b"II*\0" + b"\xff" * 30), RGB, 4, "image.jpg"),
    "EXIF with a value of another type": Readable(_with_exif(_maker_as_a_ratio()), _TURNED[6](RGB), 4, "image.jpg"),
    "animated GIF": Readable(encoded(_RED, "GIF", **_FRAMES), _ALL_RED, name="image.gif"),
    "animated PNG": Readable(encoded(_RED, "PNG", **_FRAMES), _ALL_RED),
    "animated WebP": Readable(encoded(_RED, "WEBP", lossless=True, **_FRAMES), _ALL_RED, name="image.webp"),
    "1 x 1": Readable(encoded(PIL.Image.new("RGB", (1, 1), (9, 8, 7))), np.array([[[9, 8, 7]]], dtype=np.uint8)),
    "4000 x 1": Readable(
        encoded(PIL.Image.new("RGB", (4000, 1), (9, 8, 7))), np.full((1, 4000, 3), (9, 8, 7), dtype=np.uint8)
    ),
}


def _damaged(data: bytes, place: int, *values: int) -> bytes:
    return data[:place] + bytes(values) + data[place + len(values) :]


def _png_with_wrong_checksum() -> bytes:
    data = encoded(noise())
    start = data.index(b"IDAT") + 4
    end = start + struct.unpack(">I", data[start - 8 : start - 4])[0]
    return _damaged(data, end, data[end] ^ 0xFF)


def _png_text_bomb() -> bytes:
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 2**21, zip=True)  # 2 KB in the file
    return encoded(PICTURE, pnginfo=text)


_JPEG = encoded(noise(size=(64, 64)), "JPEG")
_NO_IMAGE = "not an image, or of a kind that is not read here"
_POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"


def _tiff(values: list[float], kind: type[np.generic] = np.float32) -> bytes:
    return encoded(PIL.Image.fromarray(np.array([values], dtype=kind)), "TIFF")


REFUSED: dict[str, Refused] = {
    "empty": Refused(b"", "empty"),
    "text": Refused(b"a note", _NO_IMAGE, "image.jpg"),
    "HTML": Refused(b"<html>404</html>", _NO_IMAGE, "image.jpg"),
    "SVG": Refused(b'<svg xmlns="http://www.w3.org/2000/svg"/>', _NO_IMAGE),
    "HEIC": Refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), _NO_IMAGE, "image.jpg"),
    "EPS": Refused(_POSTSCRIPT, _NO_IMAGE, "image.jpg"),
    "JPEG, two bytes short": Refused(_JPEG[:-2], "truncated|Truncated", "image.jpg"),
    "JPEG, half": Refused(_JPEG[: len(_JPEG) // 2], "truncated|Truncated", "image.jpg"),
    "progressive JPEG, cut": Refused(
        encoded(noise(size=(64, 64)), "JPEG", progressive=True)[:-400], "truncated|Truncated", "image.jpg"
    ),
    "JPEG, damaged marker": Refused(
        _damaged(_JPEG, _JPEG.index(b"\xff\xda") + 1, 0xD8), "cannot load this image", "image.jpg"
    ),
    "PNG, cut": Refused(encoded(noise())[:-900], "truncated|Truncated|broken"),
    "PNG, wrong checksum": Refused(_png_with_wrong_checksum(), "checksum"),
    "GIF, cut": Refused(encoded(noise(), "GIF")[:-300], "truncated", "image.gif"),
    "WebP, cut": Refused(encoded(noise(), "WEBP")[:-100], "", "image.webp"),
    "AVIF, cut": Refused(encoded(noise(), "AVIF")[:-100], "", "image.avif"),
    "TIFF, cut": Refused(encoded(noise(), "TIFF")[:2000], "", "image.tif"),
    "14000 x 14000": Refused(png_of(14000, 14000), "decompression bomb"),
    "PNG, a bomb of text": Refused(_png_text_bomb(), "Decompressed data too large"),
    "30000 x 1": Refused(encoded(PIL.Image.new("L", (30000, 1))), "30000 x 1 pixels are too narrow to be resized"),
    "float grey, NaN": Refused(_tiff([0, np.nan]), "float grey from nan to nan has no known scale", "scan.tif"),
    "float grey, negative": Refused(_tiff([-3, 1]), "float grey from -3 to 1 has no known scale", "scan.tif"),
    "float grey, a million": Refused(_tiff([0, 1e6]), r"float grey from 0 to 1e\+06 has no known scale", "scan.tif"),
    "32-bit grey": Refused(_tiff([0, 70000], np.int32), "grey from 0 to 70000 has no known scale", "scan.tif"),
}
