"""Unusual and corrupt image files, with the expected pixels or the expected reason of the error.

`READABLE` and `UNREADABLE` map a description to a complete file. This module does not import the code under test.
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
    """A file, its expected pixels (height, width, 3), and the largest allowed difference of a pixel value."""

    data: bytes
    pixels: Pixels
    tolerance: int = 0
    name: str = "image.png"


@dataclass(frozen=True)
class Unreadable:
    """A file that must be rejected, and the expected reason as a regular expression."""

    data: bytes
    reason: str
    name: str = "image.png"


def encode(image: PIL.Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """Return the bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> PIL.Image.Image:
    """Return random pixels, which no format can compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def png_without_pixels(width: int, height: int) -> bytes:
    """Return a PNG with a size in its header, and no pixel data."""
    return _png(struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"")


def encode_16_bit_rgb(pixels: NDArray[Any]) -> bytes:
    """Return pixels (height, width, 3) from 0 to 65535 as a PNG with 16 bits, which Pillow cannot write."""
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    return _png(struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), zlib.compress(lines))


def _png(header: bytes, data: bytes) -> bytes:
    chunks = b""
    for tag, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def _gradient_pixels() -> Pixels:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 6, rows * 10, 255 - columns * 5], axis=2).astype(np.uint8)


RGB = _gradient_pixels()
GRADIENT = PIL.Image.fromarray(RGB)
GRAY = np.asarray(GRADIENT.convert("L"))
RAMP = np.linspace(0, 0xFFFF, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)


def _gray(values: NDArray[Any]) -> Pixels:
    return np.stack([values.astype(np.uint8)] * 3, axis=2)


def _left_half(color: tuple[int, int, int]) -> Pixels:
    """Return pixels with one color in the left half and white in the right half."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    pixels[:, : WIDTH // 2] = color
    return pixels


def _hidden_color(mode: str) -> PIL.Image.Image:
    """Return (39, 53, 20), or its gray value, opaque on the left and with an alpha of 0 on the right."""
    image = PIL.Image.new("RGB", (WIDTH, HEIGHT), (39, 53, 20)).convert(mode)
    alpha = PIL.Image.fromarray(_left_half((0, 0, 0))[..., 0] ^ 0xFF)
    image.putalpha(alpha)
    return image


def _palette() -> PIL.Image.Image:
    """Return a palette image with color (39, 53, 20) on the left and (200, 100, 0) on the right."""
    image = PIL.Image.fromarray((_left_half((0, 0, 0))[..., 0] // 255).astype(np.uint8), "P")
    image.putpalette([39, 53, 20, 200, 100, 0])
    return image


def _two_grays(mode: str) -> PIL.Image.Image:
    """Return an image with gray value 50 on the left and 99 on the right."""
    return PIL.Image.fromarray(np.where(_left_half((0, 0, 0))[..., 0] == 0, 50, 99).astype(np.uint8)).convert(mode)


def _exif(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _with_exif(block: bytes) -> bytes:
    """Return the gradient as a JPEG with this EXIF block."""
    data = encode(GRADIENT, "JPEG", quality=95, subsampling=0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]


def _exif_with_wrong_type() -> bytes:
    """Return EXIF data with orientation 6 and a fraction (1/2) as the camera maker: Pillow cannot rewrite them."""
    entries = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack("<HHII", 0x010F, 5, 1, 38)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<III", 0, 1, 2)


_MAKE_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {  # EXIF orientation -> operation that makes pixels upright
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
_ANIMATED: dict[str, Any] = {"save_all": True, "append_images": [PIL.Image.new("RGB", (WIDTH, HEIGHT), "blue")]}
_RED = PIL.Image.new("RGB", (WIDTH, HEIGHT), "red")
_ALL_RED = np.full((HEIGHT, WIDTH, 3), (255, 0, 0), dtype=np.uint8)
_CMYK = encode(GRADIENT.convert("CMYK"), "JPEG", quality=95, subsampling=0)
_ADOBE = _CMYK.index(b"\xff\xee\x00\x0eAdobe")

READABLE: dict[str, Readable] = {
    "PNG": Readable(encode(GRADIENT), RGB),
    "PNG named .jpg": Readable(encode(GRADIENT), RGB, name="image.jpg"),
    "JPEG": Readable(encode(GRADIENT, "JPEG", quality=95, subsampling=0), RGB, 4, "image.jpg"),
    "extension in capitals": Readable(encode(GRADIENT, "JPEG", quality=95, subsampling=0), RGB, 4, "IMG_0001.JPG"),
    "Unicode name": Readable(encode(GRADIENT), RGB, name="grüße 🌷 漢字 'x'.png"),
    "bad color profile": Readable(encode(GRADIENT, icc_profile=b"no profile"), RGB),
    "L": Readable(encode(GRADIENT.convert("L")), _gray(GRAY)),
    "1": Readable(encode(PIL.Image.fromarray(GRAY > 127)), _gray(np.where(GRAY > 127, 255, 0))),
    "CMYK JPEG with Adobe marker": Readable(_CMYK, RGB, 6, "image.jpg"),
    "CMYK JPEG without Adobe marker": Readable(_CMYK[:_ADOBE] + _CMYK[_ADOBE + 16 :], RGB, 6, "image.jpg"),
    "CMYK TIFF": Readable(encode(GRADIENT.convert("CMYK"), "TIFF"), RGB, 1, "image.tif"),
    "RGBA with an alpha of 0": Readable(encode(_hidden_color("RGB")), _left_half((39, 53, 20))),
    "LA with an alpha of 0": Readable(encode(_hidden_color("L")), _left_half((45, 45, 45))),
    "half-transparent black": Readable(
        encode(PIL.Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 128))), _gray(np.full((HEIGHT, WIDTH), 127))
    ),
    "palette, alpha for each color": Readable(encode(_palette(), transparency=b"\xff\0"), _left_half((39, 53, 20))),
    "palette, one transparent color": Readable(encode(_palette(), transparency=1), _left_half((39, 53, 20))),
    "GIF, one transparent color": Readable(
        encode(_palette(), "GIF", transparency=1), _left_half((39, 53, 20)), name="image.gif"
    ),
    "grayscale, one transparent value": Readable(encode(_two_grays("L"), transparency=99), _left_half((50, 50, 50))),
    "RGB, one transparent color": Readable(
        encode(_two_grays("RGB"), transparency=(99, 99, 99)), _left_half((50, 50, 50))
    ),
    "16-bit grayscale PNG": Readable(encode(PIL.Image.fromarray(RAMP)), _gray(RAMP >> 8)),
    "16-bit grayscale TIFF": Readable(encode(PIL.Image.fromarray(RAMP), "TIFF"), _gray(RAMP >> 8), name="image.tif"),
    "16-bit grayscale TIFF, big-endian": Readable(
        encode(PIL.Image.frombytes("I;16B", (WIDTH, HEIGHT), RAMP.astype(">u2").tobytes()), "TIFF"),
        _gray(RAMP >> 8),
        name="image.tif",
    ),
    "32-bit grayscale TIFF with 16-bit values": Readable(
        encode(PIL.Image.fromarray(RAMP.astype(np.int32)), "TIFF"), _gray(RAMP >> 8), name="image.tif"
    ),
    "float TIFF from 0 to 1": Readable(
        encode(PIL.Image.fromarray(GRAY.astype(np.float32) / GRAY.max()), "TIFF"),
        _gray(np.rint(GRAY.astype(np.float32) / GRAY.max() * 255)),
        name="image.tif",
    ),
    "float TIFF from 0 to 255": Readable(
        encode(PIL.Image.fromarray(GRAY.astype(np.float32)), "TIFF"), _gray(GRAY), name="image.tif"
    ),
    **{
        f"EXIF orientation {orientation}": Readable(encode(GRADIENT, exif=_exif(orientation)), make_upright(RGB))
        for orientation, make_upright in _MAKE_UPRIGHT.items()
    },
    "EXIF truncated after the orientation": Readable(
        _with_exif(_exif(6).tobytes()[6:-3]), _MAKE_UPRIGHT[6](RGB), 4, "image.jpg"
    ),
    "EXIF truncated before the orientation": Readable(_with_exif(_exif(6).tobytes()[6:15]), RGB, 4, "image.jpg"),
    "invalid EXIF": Readable(_with_exif(b"II*\0" + b"\xff" * 30), RGB, 4, "image.jpg"),
    "EXIF value of the wrong type": Readable(
        _with_exif(_exif_with_wrong_type()), _MAKE_UPRIGHT[6](RGB), 4, "image.jpg"
    ),
    "animated GIF": Readable(encode(_RED, "GIF", **_ANIMATED), _ALL_RED, name="image.gif"),
    "animated PNG": Readable(encode(_RED, "PNG", **_ANIMATED), _ALL_RED),
    "animated WebP": Readable(encode(_RED, "WEBP", lossless=True, **_ANIMATED), _ALL_RED, name="image.webp"),
    "1 x 1 pixels": Readable(encode(PIL.Image.new("RGB", (1, 1), (9, 8, 7))), np.array([[[9, 8, 7]]], dtype=np.uint8)),
    "4000 x 1 pixels": Readable(
        encode(PIL.Image.new("RGB", (4000, 1), (9, 8, 7))), np.full((1, 4000, 3), (9, 8, 7), dtype=np.uint8)
    ),
}


def _overwrite(data: bytes, position: int, *values: int) -> bytes:
    return data[:position] + bytes(values) + data[position + len(values) :]


def _png_with_wrong_checksum() -> bytes:
    data = encode(noise())
    start = data.index(b"IDAT") + 4
    end = start + struct.unpack(">I", data[start - 8 : start - 4])[0]
    return _overwrite(data, end, data[end] ^ 0xFF)


def _png_text_bomb() -> bytes:
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 2**21, zip=True)  # It takes 2 KB in the file.
    return encode(GRADIENT, pnginfo=text)


_JPEG = encode(noise(size=(64, 64)), "JPEG")
_NOT_AN_IMAGE = "not an image, or an unsupported format"
_POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"


def _tiff(values: list[float], dtype: type[np.generic] = np.float32) -> bytes:
    return encode(PIL.Image.fromarray(np.array([values], dtype=dtype)), "TIFF")


UNREADABLE: dict[str, Unreadable] = {
    "empty": Unreadable(b"", "empty"),
    "text": Unreadable(b"a note", "not an image but a text file", "image.jpg"),
    "HTML": Unreadable(b"<html>404</html>", "not an image but an HTML page", "image.jpg"),
    "SVG": Unreadable(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "HEIC": Unreadable(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC", "image.jpg"),
    "EPS": Unreadable(_POSTSCRIPT, "not an image, or an unsupported format: PostScript", "image.jpg"),
    "JPEG without its last two bytes": Unreadable(_JPEG[:-2], "truncated|Truncated", "image.jpg"),
    "half of a JPEG": Unreadable(_JPEG[: len(_JPEG) // 2], "truncated|Truncated", "image.jpg"),
    "truncated progressive JPEG": Unreadable(
        encode(noise(size=(64, 64)), "JPEG", progressive=True)[:-400], "truncated|Truncated", "image.jpg"
    ),
    "JPEG with a corrupt marker": Unreadable(
        _overwrite(_JPEG, _JPEG.index(b"\xff\xda") + 1, 0xD8), "cannot load this image", "image.jpg"
    ),
    "truncated PNG": Unreadable(encode(noise())[:-900], "truncated|Truncated|broken"),
    "PNG with a wrong checksum": Unreadable(_png_with_wrong_checksum(), "checksum"),
    "truncated GIF": Unreadable(encode(noise(), "GIF")[:-300], "truncated", "image.gif"),
    "truncated WebP": Unreadable(encode(noise(), "WEBP")[:-100], "", "image.webp"),
    "truncated AVIF": Unreadable(encode(noise(), "AVIF")[:-100], "", "image.avif"),
    "truncated TIFF": Unreadable(encode(noise(), "TIFF")[:2000], "", "image.tif"),
    "14000 x 14000 pixels": Unreadable(png_without_pixels(14000, 14000), "decompression bomb"),
    "PNG with a text bomb": Unreadable(_png_text_bomb(), "Decompressed data too large"),
    "30000 x 1 pixels": Unreadable(
        encode(PIL.Image.new("L", (30000, 1))), "the aspect ratio of 30000 x 1 pixels exceeds 5000:1"
    ),
    "float grayscale, NaN": Unreadable(
        _tiff([0, np.nan]), "unknown scale of float grayscale values from nan to nan: save", "scan.tif"
    ),
    "float grayscale, negative": Unreadable(
        _tiff([-3, 1]), "unknown scale of float grayscale values from -3 to 1: save", "scan.tif"
    ),
    "float grayscale, a million": Unreadable(
        _tiff([0, 1e6]), r"unknown scale of float grayscale values from 0 to 1e\+06: save", "scan.tif"
    ),
    "32-bit grayscale": Unreadable(
        _tiff([0, 70000], np.int32), "unknown scale of grayscale values from 0 to 70000: save", "scan.tif"
    ),
}
