"""Draws one leaf; stems and blades of grass are narrow ones."""

import math
from dataclasses import dataclass

from pipeline.data.flowers.raster import Array, window
from pipeline.data.flowers.sheets import Light, lay, petal_texel, slope_along, visible


@dataclass(frozen=True, kw_only=True)
class Blade:
    """Where a leaf lies: pixels of the canvas, radians."""

    x: float  # its base
    y: float
    angle: float  # where its tip points
    length: float
    width: float  # half width
    bend: float  # how far the tip swings aside, in lengths


def draw_leaf(canvas: Array, sheet: Array, blade: Blade, light: Light) -> None:
    """Draw a leaf on the canvas, in place.

    Args:
        canvas: (height, width, 3), float32.
        sheet: The leaf of a `Plant`.
        blade: Where it lies.
        light: What falls on it.
    """
    length, width = blade.length, blade.width
    cos, sin = math.cos(blade.angle), math.sin(blade.angle)
    middle = blade.x + 0.5 * length * cos, blade.y + 0.5 * length * sin
    part, dx, dy = window(canvas, *middle, reach=length * 0.6 + width)
    if not part.size:
        return
    along = ((dx * cos + dy * sin) / length).ravel() + 0.5
    across = (dy * cos - dx * sin).ravel() / width - blade.bend * along * along * length / width
    texel = petal_texel(along, across)
    at = visible(sheet, texel)
    texels = sheet.take(texel[at], axis=0)
    from_light = light.angle - blade.angle
    slope = slope_along(texels, math.cos(from_light), math.sin(from_light))
    rgb = part.reshape(-1, 3)
    lay(rgb, at, texels, shade=1 - light.harsh * slope, tint=light.tint)
    part[...] = rgb.reshape(part.shape)
