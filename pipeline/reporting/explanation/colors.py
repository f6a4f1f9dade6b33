"""Numbers as colors: relevance over an image, and single maps. The scale is readable without color vision."""

import functools

import numpy as np
import PIL.Image
from numpy.typing import NDArray

# The scale `inferno` of matplotlib in ten steps: its lightness rises steadily.
_SCALE = "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"


def colored(values: NDArray[np.floating], *, low: float | None = None) -> NDArray[np.uint8]:
    """Return the colors of numbers: dark for the lowest, light for the highest.

    Args:
        values: (rows, columns).
        low: The number of the darkest color. Default: the lowest one.

    Returns:
        uint8 RGB (rows, columns, 3).
    """
    places = np.linspace(0, 1, len(_scale()))
    levels = scaled(values, low=low)
    channels = [np.interp(levels, places, channel) for channel in _scale().T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def scaled(values: NDArray[np.floating], *, low: float | None = None) -> NDArray[np.float64]:
    """Return numbers from 0 for the lowest (or `low`) to 1 for the highest. Equal numbers are all 0."""
    start = float(np.min(values)) if low is None else low
    span = float(np.max(values)) - start
    return (values.astype(np.float64) - start) / span if span > 0 else np.zeros(values.shape)


def heat(pixels: NDArray[np.uint8], relevance: NDArray[np.floating], size: tuple[int, int]) -> PIL.Image.Image:
    """Return an image in gray with its relevance in color, smoothly enlarged.

    Args:
        pixels: uint8 RGB (height, width, 3).
        relevance: (rows, columns). The colors reach from its lowest to its highest number.
        size: Width and height of the picture.
    """
    gray = enlarged(pixels, size).convert("L").convert("RGB")
    levels = PIL.Image.fromarray(scaled(relevance).astype(np.float32)).resize(size, PIL.Image.Resampling.BICUBIC)
    colors = PIL.Image.fromarray(colored(np.clip(np.asarray(levels), 0, 1), low=0.0))
    return PIL.Image.blend(gray, colors, 0.6)


def enlarged(pixels: NDArray[np.uint8], size: tuple[int, int]) -> PIL.Image.Image:
    """Return an image in another size (width, height), smoothly."""
    return PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC)


def tiled(values: NDArray[np.floating], size: tuple[int, int], *, low: float | None = None) -> PIL.Image.Image:
    """Return a map as colored cells with sharp edges, in a size (width, height)."""
    return PIL.Image.fromarray(colored(values, low=low)).resize(size, PIL.Image.Resampling.NEAREST)


@functools.cache
def _scale() -> NDArray[np.float64]:
    return np.array([[int(color[i : i + 2], 16) for i in (0, 2, 4)] for color in _SCALE.split()], dtype=np.float64)
