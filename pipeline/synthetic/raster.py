"""Functions for colors and pixels that all parts of the renderer use.

Colors are sRGB in 0..1. A canvas is (height, width, 3), float32. Its values may be outside 0..1 until it is exposed.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Array = npt.NDArray[Any]
Color = tuple[float, float, float]

WHITE, BLACK = 1.0, 0.0  # They broadcast to a color in `mix`.
GOLDEN_ANGLE = 2.39996  # Radians between neighbors in the spirals of plants.


def mix(a: npt.ArrayLike, b: npt.ArrayLike, weight: float | Array) -> Array:
    """Return a float32 blend of the colors: `a` for weight 0, `b` for weight 1. All arguments are broadcast."""
    start, end = np.asarray(a), np.asarray(b)
    return np.asarray(start + (end - start) * weight, dtype=np.float32)


def smooth_step(x: Array, start: float, end: float) -> Array:
    """Return 0 up to `start`, 1 from `end` on, and a smooth step in between. If `start` > `end`, the step falls."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def noise(rng: np.random.Generator, *, cells: int, size: int) -> Array:
    """Return smooth noise (size, size, 1) of about 0..1, interpolated from `cells` x `cells` random values."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))[..., None]


def blur(canvas: Array, radius: float, *, scale: int = 1) -> Array:
    """Return the canvas blurred by `radius` pixels, enlarged by `scale` and clipped to 0..1."""
    image = Image.fromarray(np.clip(canvas * 255, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.BoxBlur(radius))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def window(canvas: Array, x: float, y: float, *, reach: float) -> tuple[Array, Array, Array]:
    """Return a view of the canvas within `reach` pixels of (x, y), and the offsets of its pixels.

    Returns:
        The view, (rows, columns, 3), which is empty if it is outside the canvas. The horizontal offsets from x,
        (1, columns), and the vertical offsets from y, (rows, 1).
    """
    height, width = canvas.shape[:2]
    left, top = max(int(x - reach), 0), max(int(y - reach), 0)
    right, bottom = min(int(x + reach) + 2, width), min(int(y + reach) + 2, height)
    part = canvas[top : max(bottom, top), left : max(right, left)]
    dy = np.arange(top, top + part.shape[0], dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(left, left + part.shape[1], dtype=np.float32)[None, :] - np.float32(x)
    return part, dx, dy
