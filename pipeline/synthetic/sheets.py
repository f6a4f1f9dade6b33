"""What a sheet is: a painted surface, how its texels are found, and how they are lit and laid over pixels.

A petal is painted once per species into a small sheet that drawing looks up for every pixel: hence its speed.
A sheet is (texels, 6), float32. Its channels: red, green and blue times cover; what is kept of the colour
below (less under the cover and in its soft shadow); the slopes of the surface along the axes of the sheet.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from pipeline.synthetic.raster import Array

_RGB, _KEEP, _SLOPE_X, _SLOPE_Y = slice(0, 3), 3, 4, 5  # channels
_BARE = 0.99  # a texel that keeps as much of what lies below is not worth laying

PETAL_ROWS, PETAL_COLUMNS = 80, 40  # texels of the sheet of a petal or leaf, along and across
PETAL_REACH, PETAL_SIDE = 1.12, 1.35  # what it covers: lengths along, half widths to either side
HEART_TEXELS = 64  # texels of the sheet of a heart, along a side
HEART_REACH = 1.1  # what it covers: radii to either side


@dataclass(frozen=True)
class Light:
    """The light that falls on a plant."""

    angle: float  # radians, where it comes from
    harsh: float  # strength of the shading
    tint: Array  # (3,), float32: its colour and brightness

    def dimmed(self, gain: float) -> "Light":
        """Return this light, `gain` times as bright."""
        return replace(self, tint=self.tint * np.float32(gain))


def make_sheet(rgb: Array, *, cover: Array, slope_x: Array, slope_y: Array) -> Array:
    """Return the sheet of a painted surface.

    Args:
        rgb: Its colours, (rows, columns, 3).
        cover: 0..1, (rows, columns) like the slopes.
        slope_x: Rise along the first axis, by which the sheet is looked up and turned to the light.
        slope_y: The same along the second.
    """
    soft = Image.fromarray((cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2.5))
    shadow = np.maximum(np.asarray(soft) / 255.0 - cover, 0)  # falls on what lies below, around the edge
    cover, keep = cover.copy(), (1 - 0.45 * shadow) * (1 - cover)
    for border in (np.s_[[0, -1]], np.s_[:, [0, -1]]):  # bare, as pixels beyond a sheet are clipped onto it
        cover[border], keep[border] = 0, 1
    slopes = np.clip(np.stack([slope_x, slope_y], axis=-1), -1, 1)
    sheet = np.concatenate([rgb * cover[..., None], keep[..., None], slopes], axis=-1)
    return np.ascontiguousarray(sheet.astype(np.float32).reshape(-1, 6))


def petal_texel(along: Array, across: Array) -> Array:
    """Return the number of the texel `along` lengths from the base and `across` half widths from the axis."""
    row = np.clip(along * (PETAL_ROWS / PETAL_REACH), 0, PETAL_ROWS - 1).astype(np.int32)
    column = (across + PETAL_SIDE) * (PETAL_COLUMNS / (2 * PETAL_SIDE))
    return row * PETAL_COLUMNS + np.clip(column, 0, PETAL_COLUMNS - 1).astype(np.int32)


def heart_texel(x: Array, y: Array) -> Array:
    """Return the number of the texel at `x` and `y`, both within -1..1 between the borders of the sheet."""
    grid = ((np.stack([y, x]) + 1) * (HEART_TEXELS / 2)).astype(np.int32)
    row, column = np.minimum(grid, HEART_TEXELS - 1)  # float32 rounds the last pixels up
    return np.asarray(row * HEART_TEXELS + column)


def visible(sheet: Array, texel: Array) -> Array:
    """Return which of these texel numbers, given as one axis, show anything of the sheet or its shadow."""
    return np.flatnonzero(sheet[:, _KEEP].take(texel) < _BARE)


def slope_along(texels: Array, cos: float | Array, sin: float | Array) -> Array:
    """Return how the surface rises in a direction of the sheet's plane, per texel (texels, 6)."""
    return np.asarray(texels[:, _SLOPE_X] * cos + texels[:, _SLOPE_Y] * sin)


def lay(rgb: Array, at: Array, texels: Array, *, shade: Array, tint: Array) -> None:
    """Lay texels (n, 6), as bright as `shade` (n,), over the pixels `at` (n,) of `rgb` (pixels, 3)."""
    rgb[at] = rgb.take(at, axis=0) * texels[:, _KEEP, None] + texels[:, _RGB] * (shade[:, None] * tint)
