"""Textures of blossom centers. Each kind has a function."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.synthetic.genome import Center, Colors
from pipeline.synthetic.raster import GOLDEN_ANGLE, WHITE, Array, Color, mix, smooth_step
from pipeline.synthetic.textures import CENTER_REACH, CENTER_TEXELS, make_texture


@dataclass(frozen=True)
class _Square:
    """The positions of the texels, (texels, texels) each. The unit is the radius of the center."""

    x: Array
    y: Array
    r: Array
    angle: Array  # radians


class _Painting(NamedTuple):
    """A painted center, on the same grid."""

    rgb: Array  # (texels, texels, 3)
    cover: Array  # opacity, 0..1
    height: Array  # height of the surface


def center_texture(center: Center, colors: Colors, rng: np.random.Generator) -> Array:
    """Return the texture of a blossom center, with columns along x and rows along y.

    `textures.py` describes the channels.

    Args:
        center: Genes of the center.
        colors: Colors of the petals. A tube and a whorl use them too.
        rng: Generator for the positions of stamens.
    """
    axis = np.linspace(-CENTER_REACH, CENTER_REACH, CENTER_TEXELS)
    x, y = np.meshgrid(axis, axis)
    square = _Square(x, y, np.hypot(x, y), np.arctan2(y, x))
    painting = _paint(center, square, colors, rng)
    slopes: Any = np.gradient(painting.height, 2 * CENTER_REACH / CENTER_TEXELS)  # First along y, then along x.
    return make_texture(painting.rgb, cover=painting.cover, slope_x=slopes[1], slope_y=slopes[0])


def _paint(center: Center, square: _Square, colors: Colors, rng: np.random.Generator) -> _Painting:
    match center.kind:
        case "disc":
            return _disc(center, square)
        case "stamens":
            return _stamens(center, square, rng)
        case "ring":
            return _ring(center, square)
        case "tube":
            return _tube(center, square, throat=colors.base)
        case "star":
            return _star(center, square)
        case "whorl":
            return _whorl(center, square, petal=colors.inner)


def _disc(center: Center, at: _Square) -> _Painting:
    """Paint florets on the spiral of a sunflower."""
    count = 30 + 4 * center.parts
    number = np.arange(count)
    r, angle = np.sqrt((number + 0.5) / count) * 0.95, number * GOLDEN_ANGLE
    dot = _dots(at, r * np.cos(angle), r * np.sin(angle), radius=1.5 / np.sqrt(count))
    rgb = mix(center.inner, center.outer, smooth_step(at.r, 0.25, 0.75)[..., None])
    dome = 0.6 * np.sqrt(np.clip(1.05 - at.r * at.r, 0, 1))
    return _Painting(rgb * (0.55 + 0.6 * dot[..., None]), _rim(at.r), dome + 0.05 * dot)


def _stamens(center: Center, at: _Square, rng: np.random.Generator) -> _Painting:
    """Paint threads with an anther at each end, around a round boss."""
    n = center.parts
    angle, length = np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.1, n), rng.uniform(0.6, 0.95, n)
    cos, sin = np.cos(angle), np.sin(angle)
    anther = _dots(at, length * cos, length * sin, radius=0.17)
    x, y = at.x[..., None], at.y[..., None]  # The last axis has all threads.
    along = x * cos + y * sin
    outside = (along < 0) | (along > length)
    distance = np.abs(y * cos - x * sin) + 9 * outside
    thread = np.clip(1.4 - distance.min(-1) / 0.035, 0, 1) * 0.85
    boss = smooth_step(at.r, 0.24, 0.16)
    rgb = mix(mix(center.inner, WHITE, 0.45), center.outer, smooth_step(anther, 0.1, 0.35)[..., None])
    cover = np.maximum(np.maximum(thread, smooth_step(anther, 0.1, 0.4)), boss)
    return _Painting(mix(rgb, center.inner, boss[..., None]), cover, 0.2 * anther - 0.3 * at.r * boss)


def _ring(center: Center, at: _Square) -> _Painting:
    """Paint the cup of a daffodil."""
    edge = 0.93 + 0.06 * np.sin(at.angle * (center.parts // 2 + 4))
    wall = smooth_step(at.r, 0.3, 0.85)
    rgb = mix(np.array(center.inner) * 0.55, center.outer, wall[..., None])
    rgb = rgb * (0.9 + 0.1 * np.cos(at.angle * 3 * center.parts))[..., None]
    return _Painting(rgb, np.clip((edge - at.r) / 0.06, 0, 1), -0.5 * np.cos(np.clip(at.r, 0, 1) * 2.6))


def _tube(center: Center, at: _Square, *, throat: Color) -> _Painting:
    """Paint a dark throat with a pale style inside."""
    angle = np.arange(center.parts % 4 + 2) * 2.1
    style = _dots(at, 0.2 * np.cos(angle), 0.2 * np.sin(angle), radius=0.26)
    rgb = mix(np.array(throat) * 0.35, mix(center.outer, WHITE, 0.4), smooth_step(style, 0.2, 0.6)[..., None])
    return _Painting(rgb, smooth_step(at.r, 1.0, 0.45), 0.5 * at.r + 0.4 * style)


def _star(center: Center, at: _Square) -> _Painting:
    """Paint the lobes of a stigma."""
    edge = 0.62 + 0.32 * np.cos(at.angle * (center.parts % 4 + 3))
    rgb = mix(center.outer, center.inner, smooth_step(at.r / edge, 0.25, 0.8)[..., None])
    return _Painting(rgb, np.clip((edge - at.r) / 0.12, 0, 1), -0.5 * at.r)


def _whorl(center: Center, at: _Square, *, petal: Color) -> _Painting:
    """Paint petals that are still closed."""
    wave = np.cos(at.angle * (center.parts % 3 + 2) - 7 * np.sqrt(at.r))
    rgb = mix(np.array(petal) * 0.62, petal, (0.5 + 0.5 * wave)[..., None])
    return _Painting(rgb, _rim(at.r), 0.25 * wave - 0.3 * at.r)


def _rim(r: Array) -> Array:
    return np.clip((1 - r) / 0.06, 0, 1)


def _dots(at: _Square, x: Array, y: Array, *, radius: float) -> Array:
    """Return 1 in the middle of the nearest dot and 0 at the distance `radius` from it. Dots are at `x`, `y`."""
    squared = (at.x[..., None] - x) ** 2 + (at.y[..., None] - y) ** 2
    return np.asarray(np.clip(1 - np.sqrt(squared.min(-1)) / radius, 0, 1))
