"""Decoded pixels in any mode and orientation -> upright RGB.

This module handles EXIF orientation, transparency, and the scale of grayscale images with more than 8 bits (`depth`).
It does not read files (`decode`) and does not decide what happens to bad images (`data.bad_images`).
"""

import struct
import zlib
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image

from pipeline.images.depth import FULL_DEPTH, GrayscaleDepth

# What Pillow's decoders raise on corrupt bytes. These exceptions have no common base class below Exception.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
_UPRIGHT: dict[Any, PIL.Image.Transpose] = {  # EXIF orientation -> the operation that makes the image upright
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def to_rgb(image: PIL.Image.Image, depth: GrayscaleDepth = FULL_DEPTH) -> PIL.Image.Image:
    """Return the image upright and in RGB: transparency on white, 16-bit and float grayscale rescaled.

    RGB, 8-bit grayscale and CMYK images come out exactly as `transformers.pipeline` sees them. An image that is already
    upright RGB is returned itself, without its metadata.

    Args:
        image: Any image of Pillow.
        depth: How 16-bit grayscale is scaled.

    Raises:
        ValueError: If integer grayscale exceeds 16 bits or float grayscale is outside 0 to 255: the scale is unknown.
    """
    upright = _make_upright(image)
    if _has_integers(upright):
        upright = _scale_integers(upright, depth)
    elif upright.mode == "F":
        upright = _scale_floats(upright)
    elif upright.has_transparency_data:
        upright = _composite_on_white(upright)
    rgb = upright if upright.mode == "RGB" else upright.convert("RGB")  # convert() always copies.
    rgb.info.clear()  # A reader of the orientation in it would rotate the image again.
    return rgb


def largest_integer(image: PIL.Image.Image) -> int | None:
    """Return the largest value of a grayscale image with more than 8 bits, or None for all other images."""
    return int(np.asarray(image).max()) if _has_integers(image) else None


def _has_integers(image: PIL.Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _make_upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Apply the EXIF orientation. If the EXIF data are corrupt, return the image as it is stored.

    Pillow's `exif_transpose` also rewrites all EXIF data, and raises various exceptions if they are corrupt.
    """
    image.load()
    try:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation)
    except UNREADABLE:
        return image
    operation = _UPRIGHT.get(orientation)
    return image if operation is None else image.transpose(operation)


def _composite_on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # convert("RGB") alone would show the colors hidden below transparent pixels.
    rgba = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), rgba)


def _scale_integers(image: PIL.Image.Image, depth: GrayscaleDepth) -> PIL.Image.Image:
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError(
            f"unknown scale of grayscale values from {pixels.min()} to {pixels.max()}: save the image with 8 bits"
        )
    return PIL.Image.fromarray(depth.to_8_bits(pixels))


def _scale_floats(image: PIL.Image.Image) -> PIL.Image.Image:
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 0xFF):  # This form of the comparison also rejects NaN.
        raise ValueError(
            f"unknown scale of float grayscale values from {low:g} to {high:g}: save the image with 8 bits"
        )
    return PIL.Image.fromarray(np.rint(pixels * (0xFF if high <= 1 else 1)).astype(np.uint8))
