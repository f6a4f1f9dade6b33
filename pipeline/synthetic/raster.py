"""Arithmetic on colours and pixels that several parts of the drawing share.

Colours are sRGB in 0..1. A canvas is (height, width, 3), float32, and may leave 0..1 until it is exposed.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Array = npt.NDArray[Any]
Colour = tuple[float, float, float]

WHITE, BLACK = 1.0, 0.0  # to mix with: they broadcast to a colour
GOLDEN_ANGLE = 2.39996  # radians between neighbours in the spirals that plants grow


def mix(a: npt.ArrayLike, b: npt.ArrayLike, share: float | Array) -> Array:
    """Return colours `a` turned into `b` by `share` (0..1), broadcast, float32."""
    start, end = np.asarray(a), np.asarray(b)
    return np.asarray(start + (end - start) * share, dtype=np.float32)


def smooth_step(x: Array, start: float, end: float) -> Array:
    """Return 0 up to `start`, 1 from `end` on, and a smooth step between; it falls where `start` > `end`."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def noise(rng: np.random.Generator, *, cells: int, size: int) -> Array:
    """Return smooth noise of (size, size, 1), about 0..1, with `cells` independent values along a side."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))[..., None]


def blur(canvas: Array, radius: float, *, scale: int = 1) -> Array:
    """Return the canvas out of focus by `radius` pixels, and larger by `scale`; clipped to 0..1."""
    image = Image.fromarray(np.clip(canvas * 255, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.BoxBlur(radius))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def window(canvas: Array, x: float, y: float, *, reach: float) -> tuple[Array, Array, Array]:
    """Return the part of the canvas within `reach` pixels of (x, y), a view, and where its pixels are.

    Returns:
        The part, (rows, columns, 3), empty if all of it is beyond the border; the distances of its pixels
        from (x, y) to the right, (1, columns), and downwards, (rows, 1).
    """
    height, width = canvas.shape[:2]
    left, top = max(int(x - reach), 0), max(int(y - reach), 0)
    right, bottom = min(int(x + reach) + 2, width), min(int(y + reach) + 2, height)
    part = canvas[top : max(bottom, top), left : max(right, left)]
    dy = np.arange(top, top + part.shape[0], dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(left, left + part.shape[1], dtype=np.float32)[None, :] - np.float32(x)
    return part, dx, dy
