"""Textures of petals, leaves and blossom centers: creation, lookup of texels, lighting and blending.

A petal is painted once per species into a small texture. The renderer looks up its texels for every pixel, which is
fast. A texture is (texels, 6), float32. Its channels are red, green and blue multiplied by the cover, the fraction of
the color below that stays visible (less under the cover and its soft shadow), and the slopes along both texture axes.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from pipeline.synthetic.raster import Array

_RGB, _KEEP, _SLOPE_X, _SLOPE_Y = slice(0, 3), 3, 4, 5  # channels
_TRANSPARENT = 0.99  # Texels that keep at least this fraction of the color below are not blended.

PETAL_ROWS, PETAL_COLUMNS = 80, 40  # Texels of a petal or leaf texture, along and across.
PETAL_REACH, PETAL_SIDE = 1.12, 1.35  # Extent of that texture: lengths along, half widths on each side.
CENTER_TEXELS = 64  # Texels of the texture of a blossom center, along one side.
CENTER_REACH = 1.1  # Extent of that texture: radii on each side.


@dataclass(frozen=True)
class Light:
    """The light that falls on a plant."""

    angle: float  # direction of the light source, radians
    harsh: float  # strength of the shading
    tint: Array  # (3,), float32: color and brightness

    def dimmed(self, gain: float) -> "Light":
        """Return this light with its brightness multiplied by `gain`."""
        return replace(self, tint=self.tint * np.float32(gain))


def make_texture(rgb: Array, *, cover: Array, slope_x: Array, slope_y: Array) -> Array:
    """Return the texture of a painted surface.

    Args:
        rgb: Colors, (rows, columns, 3).
        cover: Opacity 0..1, (rows, columns).
        slope_x: Slope of the surface along the x axis of the lighting, (rows, columns).
        slope_y: Slope of the surface along the y axis of the lighting, (rows, columns).
    """
    soft = Image.fromarray((cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2.5))
    shadow = np.maximum(np.asarray(soft) / 255.0 - cover, 0)  # The soft shadow around the edge, on the surface below.
    cover, keep = cover.copy(), (1 - 0.45 * shadow) * (1 - cover)
    # The border is transparent, because pixels outside the texture use it.
    for border in (np.s_[[0, -1]], np.s_[:, [0, -1]]):
        cover[border], keep[border] = 0, 1
    slopes = np.clip(np.stack([slope_x, slope_y], axis=-1), -1, 1)
    texture = np.concatenate([rgb * cover[..., None], keep[..., None], slopes], axis=-1)
    return np.ascontiguousarray(texture.astype(np.float32).reshape(-1, 6))


def petal_texel(along: Array, across: Array) -> Array:
    """Return the texel index for `along`, in lengths from the base, and `across`, in half widths from the axis."""
    row = np.clip(along * (PETAL_ROWS / PETAL_REACH), 0, PETAL_ROWS - 1).astype(np.int32)
    column = (across + PETAL_SIDE) * (PETAL_COLUMNS / (2 * PETAL_SIDE))
    return row * PETAL_COLUMNS + np.clip(column, 0, PETAL_COLUMNS - 1).astype(np.int32)


def center_texel(x: Array, y: Array) -> Array:
    """Return the texel index for the position `x`, `y`, both in -1..1 between the borders of the texture."""
    grid = ((np.stack([y, x]) + 1) * (CENTER_TEXELS / 2)).astype(np.int32)
    row, column = np.minimum(grid, CENTER_TEXELS - 1)  # Rounding in float32 can exceed the last texel.
    return np.asarray(row * CENTER_TEXELS + column)


def visible(texture: Array, texel: Array) -> Array:
    """Return the positions in the texel indices (n,) at which the texture or its shadow is visible."""
    return np.flatnonzero(texture[:, _KEEP].take(texel) < _TRANSPARENT)


def slope_along(texels: Array, cos: float | Array, sin: float | Array) -> Array:
    """Return the slope of the surface in a direction, given by its cosine and sine, for each texel (n, 6)."""
    return np.asarray(texels[:, _SLOPE_X] * cos + texels[:, _SLOPE_Y] * sin)


def blend(rgb: Array, at: Array, texels: Array, *, shade: Array, tint: Array) -> None:
    """Blend texels (n, 6) with brightness `shade` (n,) over the pixels `at` (n,) of `rgb` (pixels, 3), in place."""
    rgb[at] = rgb.take(at, axis=0) * texels[:, _KEEP, None] + texels[:, _RGB] * (shade[:, None] * tint)
