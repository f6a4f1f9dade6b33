"""Paints the sheet of a petal, which is that of a leaf in green: outline, colours, pattern, veins, relief."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.synthetic.genome import OUTLINES, Colours, Form, Pattern
from pipeline.synthetic.raster import Array, mix, smooth_step
from pipeline.synthetic.sheets import PETAL_COLUMNS, PETAL_REACH, PETAL_ROWS, PETAL_SIDE, make_sheet

_COLOURED_FROM = 0.1  # veins weaker than this are seen in the relief only


@dataclass(frozen=True)
class _Petal:
    """Where the texels of a sheet lie on the petal: (rows, columns), the first (rows, 1)."""

    along: Array  # petal lengths from the base
    share: Array  # the same, of the length in this column: 1 at the tip, also in a notch
    across: Array  # -1 and 1 at the edges
    gap: Array  # half widths to the nearest edge, < 0 outside
    waves: Array  # of a ruffled edge, -1..1
    cover: Array  # 0..1


def petal_sheet(form: Form, colours: Colours, pattern: Pattern, rng: np.random.Generator) -> Array:
    """Return the sheet of one petal lying along the first axis; see `sheets` for the channels."""
    petal = _outline(form)
    veins = _veins(petal, pattern)
    height = (
        form.fold * (1 - petal.across * petal.across) * 0.5
        - 0.10 * np.exp(-((petal.across / 0.16) ** 2))  # the midrib
        - 0.07 * veins
    )
    height = height + form.ruffle * 1.6 * petal.waves * np.abs(petal.across) + 0.5 * np.sin(2.6 * petal.share)
    slopes: Any = np.gradient(height, PETAL_REACH / PETAL_ROWS, 2 * PETAL_SIDE / PETAL_COLUMNS)
    rgb = _paint(petal, veins, colours, pattern, rng)
    return make_sheet(rgb, cover=petal.cover, slope_x=slopes[0], slope_y=slopes[1])


def _outline(form: Form) -> _Petal:
    s = np.linspace(0, PETAL_REACH, PETAL_ROWS)[:, None]
    v = np.linspace(-PETAL_SIDE, PETAL_SIDE, PETAL_COLUMNS)[None, :]
    notch = form.notch * np.exp(-((v / 0.3) ** 2))
    teeth = form.teeth * np.abs((v * 4.5) % 2 - 1) * (np.abs(v) < 1.2)
    length = 1 - notch - teeth
    share = np.clip(s / length, 0, 1)

    rise, fall = OUTLINES[form.outline]
    peak = rise / (rise + fall)  # where the outline is widest
    half = (share + 0.01) ** rise * (1 - share) ** fall / (peak**rise * (1 - peak) ** fall)
    half = np.maximum(half, 0.14 * (share < 0.5))  # the claw, by which it is held
    waves = np.sin(share * 19 + 2 * np.sign(v))
    half = half * (1 + form.ruffle * waves * share)
    gap = half - np.abs(v)
    return _Petal(
        along=s,
        share=share,
        across=np.clip(v / (half + 0.06), -1.2, 1.2),
        gap=gap,
        waves=waves,
        cover=np.clip(gap / 0.09 + 0.5, 0, 1) * np.clip((1 - s / length) / 0.025, 0, 1),
    )


def _veins(petal: _Petal, pattern: Pattern) -> Array:
    """Return where the veins are: 0, and up to the strength of the gene on them."""
    off = np.abs((petal.across * pattern.lines / 2 + 0.5) % 1 - 0.5) * 2  # 0 on a vein, 1 between two
    faint = smooth_step(petal.share, 0.95, 0.35)  # towards the tip
    return np.asarray((1 - smooth_step(off, 0.0, 0.55)) * faint * pattern.veins)


def _paint(petal: _Petal, veins: Array, colours: Colours, pattern: Pattern, rng: np.random.Generator) -> Array:
    fade = smooth_step(petal.share, colours.fade - 0.3, colours.fade + 0.3)
    rgb = mix(colours.base, colours.tip, fade[..., None])
    rgb = mix(rgb, colours.accent, _pattern_share(petal, pattern, rng)[..., None])
    if pattern.veins > _COLOURED_FROM:
        rgb = mix(rgb, colours.accent, 0.75 * veins[..., None])
    depth = 0.66 + 0.34 * smooth_step(petal.along, 0.0, 0.45)  # dark where petals meet
    rim = 0.05 * smooth_step(petal.gap, 0.3, 0.0)  # bright where light comes through
    return np.asarray(rgb * (depth + rim)[..., None])


def _pattern_share(petal: _Petal, pattern: Pattern, rng: np.random.Generator) -> Array:
    """Return where the pattern is, 0..1."""
    s, q, size = petal.share, petal.across, pattern.size
    ragged = s + 0.06 * np.cos(9 * q)
    share = np.zeros_like(s)  # plain
    match pattern.kind:
        case "spots":
            share = _spots(petal, size, rng)
        case "blotch":
            share = smooth_step(ragged + 0.25 * q * q, 0.36 + 0.22 * size, 0.26 + 0.22 * size)
        case "picotee":
            share = smooth_step(np.minimum(petal.gap * 0.5, (1 - s) * 1.3), 0.12 + 0.12 * size, 0.06)
        case "stripe":
            middle = smooth_step(np.abs(q), 0.24 + 0.3 * size, 0.14 + 0.2 * size)
            share = middle * smooth_step(s, 0.97, 0.75)
        case "band":
            share = smooth_step(np.abs(ragged - 0.42 - 0.2 * size), 0.14, 0.07)
        case "tips":
            share = smooth_step(s, 0.68 - 0.15 * size, 0.84 - 0.15 * size)
        case "half":
            share = smooth_step(s, 0.42, 0.5) * 0.85
    return share


def _spots(petal: _Petal, size: float, rng: np.random.Generator) -> Array:
    count = int(8 + 14 * size)
    at_s, at_q = rng.uniform(0.15, 0.55 + 0.35 * size, count), rng.uniform(-0.8, 0.8, count)
    far = ((petal.share[..., None] - at_s) / 0.045) ** 2 + ((petal.across[..., None] - at_q) / 0.16) ** 2
    return smooth_step(far.min(-1), 1.3, 0.5)
