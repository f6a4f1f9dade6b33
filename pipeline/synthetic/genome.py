"""The genes of a species: numbers and colors that define its appearance, sampled from its seed.

Three species form a genus. They share the habit and some of the four other groups of genes, so that they look
similar and differ in the remaining groups, like real species.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from pipeline.synthetic.raster import BLACK, WHITE, Array, Color, mix
from pipeline.synthetic.seeds import Stream, generator

_T = TypeVar("_T")
PatternKind = Literal["plain", "spots", "blotch", "picotee", "stripe", "band", "tips", "half"]
CenterKind = Literal["disc", "stamens", "ring", "tube", "star", "whorl"]
HabitKind = Literal["single", "few", "umbel", "spike"]

GENUS_SIZE = 3
# Rise and fall of an outline. The half width is about s ** rise * (1 - s) ** fall, with s from 0 (base) to 1 (tip).
OUTLINES: dict[str, tuple[float, float]] = {
    "round": (0.60, 0.38),
    "egg": (0.80, 0.62),
    "pointed": (0.65, 1.05),
    "lance": (1.00, 1.00),
    "strap": (0.28, 0.24),
    "spoon": (2.20, 0.42),
    "heart": (1.00, 0.30),
}

# Colors as rrggbb. A color that is listed twice is sampled twice as often.
_PETAL_COLORS = (
    "f5f2ed f5f2ed f5f2ed f5e6b3 f5e042 f5e042 f7b81a f7b81a f27a1a f27a1a f0856b d9211c d9211c a80f33 "
    "eb759e eb759e f5c4cc f5c4cc cc268a cc268a c29ee0 c29ee0 7a3bb3 7a3bb3 4d40a8 4d40a8 4d70db 4d70db "
    "99bdf0 611226 c2d47a"
)
_CENTER_COLORS = "f7c71f f7c71f f7c71f ed8c1a ed8c1a 73451a 73451a 9ebd40 9ebd40 3d1a33 f2e8b8 b3243d"
_DARK_RED = (0.3, 0.02, 0.12)
_LEAF_DEEP, _LEAF_PALE = (0.20, 0.42, 0.14), (0.46, 0.58, 0.40)

# Probability of each value.
_PETALS = {3: 0.06, 4: 0.1, 5: 0.26, 6: 0.16, 7: 0.05, 8: 0.1, 10: 0.06, 13: 0.08, 18: 0.08, 24: 0.05}
_LAYERS = {1: 0.56, 2: 0.22, 3: 0.12, 5: 0.1}
_CUPS = {0.0: 0.4, 0.3: 0.4, -0.2: 0.2}
_SEPALS = {0.0: 0.6, 0.6: 0.2, 1.05: 0.2}
_PATTERNS: dict[PatternKind, float] = {
    "plain": 0.3,
    "spots": 0.12,
    "blotch": 0.14,
    "picotee": 0.12,
    "stripe": 0.1,
    "band": 0.1,
    "tips": 0.07,
    "half": 0.05,
}
_CENTERS: dict[CenterKind, float] = {
    "disc": 0.28,
    "stamens": 0.24,
    "ring": 0.14,
    "tube": 0.12,
    "star": 0.12,
    "whorl": 0.1,
}
_HABITS: dict[HabitKind, float] = {"single": 0.6, "few": 0.2, "umbel": 0.1, "spike": 0.1}


@dataclass(frozen=True, kw_only=True)
class Form:
    """Number, outline and arrangement of the petals. The unit of lengths is the petal length."""

    petals: int
    outline: str  # a key of OUTLINES
    width: float  # half width
    notch: float = 0.0  # depth of the cut in the tip
    teeth: float = 0.0  # depth of the teeth along the tip
    ruffle: float = 0.0  # waves along the edge
    fold: float  # > 0: arched across; < 0: a channel
    curl: float = 0.0  # sideways bend, like a propeller
    layers: int = 1
    shrink: float = 1.0  # length of a layer relative to the next outer layer
    cup: float = 0.0  # > 0: a bowl; < 0: petals bent back
    lobed: float = 0.0  # 0: radial symmetry; > 0: the lowest petals are the largest


@dataclass(frozen=True, kw_only=True)
class Colors:
    """Colors of the petals."""

    tip: Color
    base: Color
    accent: Color  # color of patterns and veins
    inner: Color  # tip color of the inner layers
    fade: float  # position of the change from base to tip, in petal lengths


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """The pattern on the petals, in the accent color."""

    kind: PatternKind
    size: float  # 0..1
    veins: float  # strength of the veins
    lines: int  # number of veins


@dataclass(frozen=True, kw_only=True)
class Center:
    """The center of a blossom."""

    kind: CenterKind
    radius: float  # in petal lengths
    parts: int  # number of stamens, florets or rays
    outer: Color
    inner: Color


@dataclass(frozen=True, kw_only=True)
class Habit:
    """The arrangement of blossoms and leaves. All species of a genus share it."""

    kind: HabitKind
    blossoms: int
    sepals: float  # length in petal lengths, 0 if no sepals are visible
    leaf_width: float  # half width in leaf lengths
    leaf_tone: Color


@dataclass(frozen=True, kw_only=True)
class Genome:
    """All genes of a species."""

    form: Form
    colors: Colors
    pattern: Pattern
    center: Center
    habit: Habit


def genome(version: int, species: int) -> Genome:
    """Return the genes of a species. It shares one or two of the four groups with its genus."""
    groups = ("form", "colors", "pattern", "center")
    rng = generator(version, Stream.DIFFERENCES, species)
    own = set(rng.permutation(groups)[: int(rng.integers(2, 4))].tolist())

    def source(number: int, name: str) -> np.random.Generator:
        if name in own:
            return generator(version, Stream.SPECIES_GENES, species, number)
        return generator(version, Stream.GENUS_GENES, species // GENUS_SIZE, number)

    # Each group of genes has a number, so that its generator differs from those of the other groups.
    return Genome(
        form=_form(source(0, "form")),
        colors=_colors(source(1, "colors")),
        pattern=_pattern(source(2, "pattern")),
        center=_center(source(3, "center")),
        habit=_habit(source(9, "habit")),
    )


def _form(rng: np.random.Generator) -> Form:
    petals = _choose(rng, _PETALS)
    outline = str(rng.choice(list(OUTLINES)))
    layers = _choose(rng, _LAYERS)
    touching = np.sin(np.pi / petals) if petals > 3 else 0.7  # Half width at which neighbors touch.
    return Form(
        petals=petals,
        outline=outline,
        width=float(np.clip(touching * rng.uniform(0.6, 1.35), 0.07, 0.68)),
        notch=_sometimes(rng, 0.9 if outline == "heart" else 0.12, 0.12, 0.3),
        teeth=_sometimes(rng, 0.15, 0.06, 0.16),
        ruffle=_sometimes(rng, 0.25, 0.06, 0.14),
        fold=float(rng.choice([-1, 1]) * rng.uniform(0.35, 1.0)),
        curl=float(rng.choice([-1, 1]) * rng.uniform(0.2, 0.45)) if rng.random() < 0.2 else 0.0,
        layers=layers,
        shrink=float(rng.uniform(0.62, 0.8) if layers < 4 else rng.uniform(0.76, 0.86)),
        cup=_choose(rng, _CUPS),
        lobed=_sometimes(rng, 0.45, 0.2, 0.45) if layers == 1 and petals in (3, 5, 6) else 0.0,
    )


def _colors(rng: np.random.Generator) -> Colors:
    tip, other, third = (_pick(rng, _PETAL_COLORS) for _ in range(3))
    bases = mix(tip, other, rng.uniform(0.6, 1)), mix(tip, WHITE, 0.65), mix(tip, BLACK, 0.4), np.array(tip)
    base = bases[int(rng.choice(4, p=[0.3, 0.25, 0.2, 0.25]))]
    dark_accent = sum(tip) > 1.3 or rng.random() < 0.3  # Pale petals always have a dark accent.
    accent = mix(third, _DARK_RED, 0.55) if dark_accent else mix(other, WHITE, 0.55)
    inner = other if rng.random() < 0.25 else tip
    fade = float(rng.uniform(0.2, 0.75))
    return Colors(tip=tip, base=_color(base), accent=_color(accent), inner=inner, fade=fade)


def _pattern(rng: np.random.Generator) -> Pattern:
    return Pattern(
        kind=_choose(rng, _PATTERNS),
        veins=_sometimes(rng, 0.4, 0.25, 0.8, default=0.08),
        size=float(rng.random()),
        lines=int(rng.integers(4, 9)),
    )


def _center(rng: np.random.Generator) -> Center:
    kind = _choose(rng, _CENTERS)
    radii = {"disc": (0.14, 0.44), "ring": (0.24, 0.46), "stamens": (0.3, 0.6)}.get(kind, (0.16, 0.36))
    outer, inner = _pick(rng, _CENTER_COLORS), _pick(rng, _CENTER_COLORS)
    return Center(
        kind=kind,
        radius=float(rng.uniform(*radii)),
        parts=int(rng.integers(6, 30)),
        outer=outer,
        inner=inner,
    )


def _habit(rng: np.random.Generator) -> Habit:
    kind = _choose(rng, _HABITS)
    number = {"single": (1, 2), "few": (2, 5), "umbel": (8, 13), "spike": (7, 11)}[kind]
    tone = mix(_LEAF_DEEP, _LEAF_PALE, rng.random()) * rng.uniform(0.8, 1.15)
    return Habit(
        kind=kind,
        blossoms=int(rng.integers(*number)),
        sepals=_choose(rng, _SEPALS),
        leaf_width=float(rng.uniform(0.06, 0.34)),
        leaf_tone=_color(tone),
    )


def _choose(rng: np.random.Generator, chances: Mapping[_T, float]) -> _T:
    return list(chances)[int(rng.choice(len(chances), p=list(chances.values())))]


def _sometimes(rng: np.random.Generator, chance: float, low: float, high: float, *, default: float = 0.0) -> float:
    return float(rng.uniform(low, high)) if rng.random() < chance else default


def _pick(rng: np.random.Generator, codes: str) -> Color:
    """Return one of the colors with a small random change."""
    code = str(rng.choice(codes.split()))
    plain = np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return _color(np.clip(plain + rng.normal(0, 0.035, 3), 0.02, 0.98))


def _color(values: Array) -> Color:
    red, green, blue = values.tolist()
    return (red, green, blue)
