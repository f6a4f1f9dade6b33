"""Decoded pixels of any format, however the camera was held -> upright RGB.

Owns orientation, transparency, and the scale of grey beyond 8 bits. It knows neither files nor what is done about
bad ones (`images`).
"""

import struct
import zlib
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image

# What Pillow's decoders raise on damaged bytes: these share no base class below Exception.
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
_TURNS: dict[Any, PIL.Image.Transpose] = {  # EXIF orientation -> what undoes it
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return the image upright and in RGB: alpha on white, 16-bit and float grey scaled, never clipped.

    RGB, grey and CMYK images come out exactly as `transformers.pipeline` sees them. An image that is so already is
    returned itself, without what it carried beside its pixels.

    Raises:
        ValueError: If grey goes beyond 16 bits, or float grey beyond 0..255, so that its scale is unknown.
    """
    upright = _turn_upright(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        upright = _scale_integers(upright)
    elif upright.mode == "F":
        upright = _scale_floats(upright)
    elif upright.has_transparency_data:
        upright = _composite_on_white(upright)
    rgb = upright if upright.mode == "RGB" else upright.convert("RGB")  # which would copy
    rgb.info.clear()  # whoever read the orientation in it would turn the image again
    return rgb


def _turn_upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return the image as its EXIF data say it was held, or as it lies if they are damaged.

    Pillow's `exif_transpose` also writes all the EXIF data anew, and raises what it likes where they are damaged.
    """
    image.load()
    try:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation)
    except UNREADABLE:
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _composite_on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # convert("RGB") alone would show whatever colour hides below the transparent pixels.
    coloured = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), coloured)


def _scale_integers(image: PIL.Image.Image) -> PIL.Image.Image:
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError(f"grey from {pixels.min()} to {pixels.max()} has no known scale; save it in 8 bits")
    return PIL.Image.fromarray((pixels >> 8).astype(np.uint8))


def _scale_floats(image: PIL.Image.Image) -> PIL.Image.Image:
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 0xFF):  # written so that NaN is refused as well
        raise ValueError(f"float grey from {low:g} to {high:g} has no known scale; save it in 8 bits")
    return PIL.Image.fromarray(np.rint(pixels * (0xFF if high <= 1 else 1)).astype(np.uint8))
