"""Paints the sheet of a heart, the centre of a blossom, one function for each kind."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.synthetic.genome import Colours, Heart
from pipeline.synthetic.raster import GOLDEN_ANGLE, WHITE, Array, Colour, mix, smooth_step
from pipeline.synthetic.sheets import HEART_REACH, HEART_TEXELS, make_sheet


@dataclass(frozen=True)
class _Square:
    """Where the texels of a sheet lie on the heart, in radii: (texels, texels) each."""

    x: Array
    y: Array
    r: Array
    angle: Array  # radians


class _Painting(NamedTuple):
    """A heart as painted, on the same square."""

    rgb: Array  # (texels, texels, 3)
    cover: Array
    height: Array


def heart_sheet(heart: Heart, colours: Colours, rng: np.random.Generator) -> Array:
    """Return the sheet of a heart, with columns along x and rows along y; see `sheets` for the channels.

    Args:
        heart: Its genes.
        colours: Of the petals: they go on into a tube or a whorl.
        rng: For the places of stamens.
    """
    axis = np.linspace(-HEART_REACH, HEART_REACH, HEART_TEXELS)
    x, y = np.meshgrid(axis, axis)
    square = _Square(x, y, np.hypot(x, y), np.arctan2(y, x))
    painting = _paint(heart, square, colours, rng)
    slopes: Any = np.gradient(painting.height, 2 * HEART_REACH / HEART_TEXELS)  # along y, along x
    return make_sheet(painting.rgb, cover=painting.cover, slope_x=slopes[1], slope_y=slopes[0])


def _paint(heart: Heart, square: _Square, colours: Colours, rng: np.random.Generator) -> _Painting:
    match heart.kind:
        case "disc":
            return _disc(heart, square)
        case "stamens":
            return _stamens(heart, square, rng)
        case "ring":
            return _ring(heart, square)
        case "tube":
            return _tube(heart, square, throat=colours.base)
        case "star":
            return _star(heart, square)
        case "whorl":
            return _whorl(heart, square, petal=colours.inner)


def _disc(heart: Heart, at: _Square) -> _Painting:
    """Florets on the spiral of a sunflower."""
    count = 30 + 4 * heart.parts
    number = np.arange(count)
    r, angle = np.sqrt((number + 0.5) / count) * 0.95, number * GOLDEN_ANGLE
    dot = _dots(at, r * np.cos(angle), r * np.sin(angle), radius=1.5 / np.sqrt(count))
    rgb = mix(heart.inner, heart.outer, smooth_step(at.r, 0.25, 0.75)[..., None])
    dome = 0.6 * np.sqrt(np.clip(1.05 - at.r * at.r, 0, 1))
    return _Painting(rgb * (0.55 + 0.6 * dot[..., None]), _rim(at.r), dome + 0.05 * dot)


def _stamens(heart: Heart, at: _Square, rng: np.random.Generator) -> _Painting:
    """Threads with an anther at their ends, around a boss."""
    n = heart.parts
    turn, far = np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.1, n), rng.uniform(0.6, 0.95, n)
    cos, sin = np.cos(turn), np.sin(turn)
    anther = _dots(at, far * cos, far * sin, radius=0.17)
    x, y = at.x[..., None], at.y[..., None]  # against every thread
    along = x * cos + y * sin
    beyond = (along < 0) | (along > far)
    off = np.abs(y * cos - x * sin) + 9 * beyond
    thread = np.clip(1.4 - off.min(-1) / 0.035, 0, 1) * 0.85
    boss = smooth_step(at.r, 0.24, 0.16)
    rgb = mix(mix(heart.inner, WHITE, 0.45), heart.outer, smooth_step(anther, 0.1, 0.35)[..., None])
    cover = np.maximum(np.maximum(thread, smooth_step(anther, 0.1, 0.4)), boss)
    return _Painting(mix(rgb, heart.inner, boss[..., None]), cover, 0.2 * anther - 0.3 * at.r * boss)


def _ring(heart: Heart, at: _Square) -> _Painting:
    """The cup of a daffodil."""
    edge = 0.93 + 0.06 * np.sin(at.angle * (heart.parts // 2 + 4))
    wall = smooth_step(at.r, 0.3, 0.85)
    rgb = mix(np.array(heart.inner) * 0.55, heart.outer, wall[..., None])
    rgb = rgb * (0.9 + 0.1 * np.cos(at.angle * 3 * heart.parts))[..., None]
    return _Painting(rgb, np.clip((edge - at.r) / 0.06, 0, 1), -0.5 * np.cos(np.clip(at.r, 0, 1) * 2.6))


def _tube(heart: Heart, at: _Square, *, throat: Colour) -> _Painting:
    """A dark throat with a pale style in it."""
    angle = np.arange(heart.parts % 4 + 2) * 2.1
    style = _dots(at, 0.2 * np.cos(angle), 0.2 * np.sin(angle), radius=0.26)
    rgb = mix(np.array(throat) * 0.35, mix(heart.outer, WHITE, 0.4), smooth_step(style, 0.2, 0.6)[..., None])
    return _Painting(rgb, smooth_step(at.r, 1.0, 0.45), 0.5 * at.r + 0.4 * style)


def _star(heart: Heart, at: _Square) -> _Painting:
    """The lobes of a stigma."""
    edge = 0.62 + 0.32 * np.cos(at.angle * (heart.parts % 4 + 3))
    rgb = mix(heart.outer, heart.inner, smooth_step(at.r / edge, 0.25, 0.8)[..., None])
    return _Painting(rgb, np.clip((edge - at.r) / 0.12, 0, 1), -0.5 * at.r)


def _whorl(heart: Heart, at: _Square, *, petal: Colour) -> _Painting:
    """Petals that are still closed."""
    wave = np.cos(at.angle * (heart.parts % 3 + 2) - 7 * np.sqrt(at.r))
    rgb = mix(np.array(petal) * 0.62, petal, (0.5 + 0.5 * wave)[..., None])
    return _Painting(rgb, _rim(at.r), 0.25 * wave - 0.3 * at.r)


def _rim(r: Array) -> Array:
    return np.clip((1 - r) / 0.06, 0, 1)


def _dots(at: _Square, x: Array, y: Array, *, radius: float) -> Array:
    """Return 1 in the middle of the nearest dot (one is at each `x`, `y`), 0 from `radius` on."""
    far = (at.x[..., None] - x) ** 2 + (at.y[..., None] - y) ** 2
    return np.asarray(np.clip(1 - np.sqrt(far.min(-1)) / radius, 0, 1))
