"""Textures of petals: outline, colors, pattern, veins and relief. Leaves use the same function."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.synthetic.genome import OUTLINES, Colors, Form, Pattern
from pipeline.synthetic.raster import Array, mix, smooth_step
from pipeline.synthetic.textures import PETAL_COLUMNS, PETAL_REACH, PETAL_ROWS, PETAL_SIDE, make_texture

_MIN_COLORED_VEINS = 0.1  # Weaker veins change the relief, but not the color.


@dataclass(frozen=True)
class _Petal:
    """The positions of the texels on the petal. Shapes are (rows, columns), and (rows, 1) for `along`."""

    along: Array  # distance from the base in petal lengths
    position: Array  # the same, as a fraction of the length of the column: 1 at the tip, also in a notch
    across: Array  # distance from the axis: -1 and 1 at the edges
    gap: Array  # distance to the nearest edge in half widths, < 0 outside
    waves: Array  # waves of a ruffled edge, -1..1
    cover: Array  # opacity, 0..1


def petal_texture(form: Form, colors: Colors, pattern: Pattern, rng: np.random.Generator) -> Array:
    """Return the texture of one petal along the first axis. `textures.py` describes the channels."""
    petal = _outline(form)
    veins = _veins(petal, pattern)
    height = (
        form.fold * (1 - petal.across * petal.across) * 0.5
        - 0.10 * np.exp(-((petal.across / 0.16) ** 2))  # the midrib
        - 0.07 * veins
    )
    height = height + form.ruffle * 1.6 * petal.waves * np.abs(petal.across) + 0.5 * np.sin(2.6 * petal.position)
    slopes: Any = np.gradient(height, PETAL_REACH / PETAL_ROWS, 2 * PETAL_SIDE / PETAL_COLUMNS)
    rgb = _paint(petal, veins, colors, pattern, rng)
    return make_texture(rgb, cover=petal.cover, slope_x=slopes[0], slope_y=slopes[1])


def _outline(form: Form) -> _Petal:
    s = np.linspace(0, PETAL_REACH, PETAL_ROWS)[:, None]
    v = np.linspace(-PETAL_SIDE, PETAL_SIDE, PETAL_COLUMNS)[None, :]
    notch = form.notch * np.exp(-((v / 0.3) ** 2))
    teeth = form.teeth * np.abs((v * 4.5) % 2 - 1) * (np.abs(v) < 1.2)
    length = 1 - notch - teeth
    position = np.clip(s / length, 0, 1)

    rise, fall = OUTLINES[form.outline]
    peak = rise / (rise + fall)  # The outline is widest here.
    half = (position + 0.01) ** rise * (1 - position) ** fall / (peak**rise * (1 - peak) ** fall)
    half = np.maximum(half, 0.14 * (position < 0.5))  # The narrow base of the petal.
    waves = np.sin(position * 19 + 2 * np.sign(v))
    half = half * (1 + form.ruffle * waves * position)
    gap = half - np.abs(v)
    return _Petal(
        along=s,
        position=position,
        across=np.clip(v / (half + 0.06), -1.2, 1.2),
        gap=gap,
        waves=waves,
        cover=np.clip(gap / 0.09 + 0.5, 0, 1) * np.clip((1 - s / length) / 0.025, 0, 1),
    )


def _veins(petal: _Petal, pattern: Pattern) -> Array:
    """Return the strength of the veins at each texel: 0 outside of veins."""
    off = np.abs((petal.across * pattern.lines / 2 + 0.5) % 1 - 0.5) * 2  # 0 on a vein, 1 between two veins.
    faint = smooth_step(petal.position, 0.95, 0.35)  # Veins fade towards the tip.
    return np.asarray((1 - smooth_step(off, 0.0, 0.55)) * faint * pattern.veins)


def _paint(petal: _Petal, veins: Array, colors: Colors, pattern: Pattern, rng: np.random.Generator) -> Array:
    fade = smooth_step(petal.position, colors.fade - 0.3, colors.fade + 0.3)
    rgb = mix(colors.base, colors.tip, fade[..., None])
    rgb = mix(rgb, colors.accent, _pattern_strength(petal, pattern, rng)[..., None])
    if pattern.veins > _MIN_COLORED_VEINS:
        rgb = mix(rgb, colors.accent, 0.75 * veins[..., None])
    depth = 0.66 + 0.34 * smooth_step(petal.along, 0.0, 0.45)  # Petals are dark where they meet.
    rim = 0.05 * smooth_step(petal.gap, 0.3, 0.0)  # Light shines through the edge.
    return np.asarray(rgb * (depth + rim)[..., None])


def _pattern_strength(petal: _Petal, pattern: Pattern, rng: np.random.Generator) -> Array:
    """Return the strength of the pattern at each texel, 0..1."""
    s, q, size = petal.position, petal.across, pattern.size
    ragged = s + 0.06 * np.cos(9 * q)
    strength = np.zeros_like(s)  # plain
    match pattern.kind:
        case "spots":
            strength = _spots(petal, size, rng)
        case "blotch":
            strength = smooth_step(ragged + 0.25 * q * q, 0.36 + 0.22 * size, 0.26 + 0.22 * size)
        case "picotee":
            strength = smooth_step(np.minimum(petal.gap * 0.5, (1 - s) * 1.3), 0.12 + 0.12 * size, 0.06)
        case "stripe":
            middle = smooth_step(np.abs(q), 0.24 + 0.3 * size, 0.14 + 0.2 * size)
            strength = middle * smooth_step(s, 0.97, 0.75)
        case "band":
            strength = smooth_step(np.abs(ragged - 0.42 - 0.2 * size), 0.14, 0.07)
        case "tips":
            strength = smooth_step(s, 0.68 - 0.15 * size, 0.84 - 0.15 * size)
        case "half":
            strength = smooth_step(s, 0.42, 0.5) * 0.85
    return strength


def _spots(petal: _Petal, size: float, rng: np.random.Generator) -> Array:
    count = int(8 + 14 * size)
    at_s, at_q = rng.uniform(0.15, 0.55 + 0.35 * size, count), rng.uniform(-0.8, 0.8, count)
    distance = ((petal.position[..., None] - at_s) / 0.045) ** 2 + ((petal.across[..., None] - at_q) / 0.16) ** 2
    return smooth_step(distance.min(-1), 1.3, 0.5)
