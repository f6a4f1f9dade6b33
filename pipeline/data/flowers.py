"""How a species of flower looks: its genes, and the sheets (petal, heart, leaf) painted from them.

It owns nothing of a picture (pose, light, background) and no files: see ``synthetic``. A petal is painted
once per species into a small sheet that drawing looks up for every pixel, which is what makes it fast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Array = npt.NDArray[Any]
Colour = tuple[float, float, float]

GENUS_SIZE = 3
LONG, WIDE, HEART = 80, 40, 64  # texels of a petal sheet (along, across) and of a heart sheet
REACH, SIDE = 1.12, 1.35  # what a petal sheet covers: lengths along, half widths across
_GENES = ("form", "colours", "pattern", "heart")

# colours as rrggbb; one that stands twice is met twice as often
_PETAL_COLOURS = (
    "f5f2ed f5f2ed f5f2ed f5e6b3 f5e042 f5e042 f7b81a f7b81a f27a1a f27a1a f0856b d9211c d9211c a80f33 "
    "eb759e eb759e f5c4cc f5c4cc cc268a cc268a c29ee0 c29ee0 7a3bb3 7a3bb3 4d40a8 4d40a8 4d70db 4d70db "
    "99bdf0 611226 c2d47a"
)
_HEART_COLOURS = "f7c71f f7c71f f7c71f ed8c1a ed8c1a 73451a 73451a 9ebd40 9ebd40 3d1a33 f2e8b8 b3243d"
# rise and fall of the outline: half width ~ s ** rise * (1 - s) ** fall
_SHAPES: dict[str, tuple[float, float]] = {
    "round": (0.60, 0.38),
    "egg": (0.80, 0.62),
    "pointed": (0.65, 1.05),
    "lance": (1.00, 1.00),
    "strap": (0.28, 0.24),
    "spoon": (2.20, 0.42),
    "heart": (1.00, 0.30),
}
_PATTERNS = ("plain", "spots", "blotch", "picotee", "stripe", "band", "tips", "half")
_HEARTS = ("disc", "stamens", "ring", "tube", "star", "whorl")


@dataclass(frozen=True)
class Form:
    """Petals: how many, their outline and how they are held. Lengths are in petal lengths."""

    petals: int
    shape: str
    width: float  # half width
    notch: float
    teeth: float
    ruffle: float
    fold: float  # >0 arched across, <0 channelled
    curl: float  # sideways bend: a propeller
    layers: int
    shrink: float  # length of a layer against the one outside it
    cup: float  # >0 a bowl, <0 bent back
    lobed: float  # 0 radial; >0 the lowest petals are the largest: a face


@dataclass(frozen=True)
class Colours:
    """Colours of the petals in sRGB, 0..1."""

    tip: Colour
    base: Colour
    accent: Colour
    inner: Colour  # tip of the inner layers
    fade: float  # where base turns into tip, in petal lengths


@dataclass(frozen=True)
class Pattern:
    """What is written on the petals in the accent colour."""

    kind: str
    size: float  # 0..1
    veins: float  # strength
    lines: int


@dataclass(frozen=True)
class Heart:
    """The centre of the blossom."""

    kind: str
    radius: float  # in petal lengths
    parts: int
    outer: Colour
    inner: Colour


@dataclass(frozen=True)
class Habit:
    """How the plant carries its blossoms; shared by a genus."""

    kind: str  # single, few, umbel or spike
    blossoms: int
    sepals: float  # length, 0 for none seen
    leaf_width: float
    leaf_tone: Colour


@dataclass(frozen=True)
class Plant:
    """A species ready for drawing: its genes and its sheets.

    A sheet is (texels, 6), float32: red, green, blue (times cover); what is kept of the colour below (less
    under the cover and in its soft shadow); the slopes of the surface along the two axes of the sheet.
    """

    form: Form
    habit: Habit
    petal: Array
    inner: Array
    heart: Array
    heart_radius: float
    leaf: Array


def _pick(rng: np.random.Generator, codes: str) -> Colour:
    code = str(rng.choice(codes.split()))
    plain = np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    red, green, blue = np.clip(plain + rng.normal(0, 0.035, 3), 0.02, 0.98).tolist()
    return (red, green, blue)


def mix(a: Any, b: Any, share: Any) -> Array:
    """Return colours ``a`` turned into ``b`` by ``share`` (0..1), broadcast."""
    return np.asarray(a + (np.asarray(b) - np.asarray(a)) * share, dtype=np.float32)


def _form(rng: np.random.Generator) -> Form:
    petals = int(
        rng.choice([3, 4, 5, 6, 7, 8, 10, 13, 18, 24], p=[0.06, 0.1, 0.26, 0.16, 0.05, 0.1, 0.06, 0.08, 0.08, 0.05])
    )
    shape = str(rng.choice(list(_SHAPES)))
    layers = int(rng.choice([1, 2, 3, 5], p=[0.56, 0.22, 0.12, 0.1]))
    fit = np.sin(np.pi / petals) if petals > 3 else 0.7
    return Form(
        petals=petals,
        shape=shape,
        width=float(np.clip(fit * rng.uniform(0.6, 1.35), 0.07, 0.68)),
        notch=float(rng.uniform(0.12, 0.3)) if rng.random() < (0.9 if shape == "heart" else 0.12) else 0.0,
        teeth=float(rng.uniform(0.06, 0.16)) if rng.random() < 0.15 else 0.0,
        ruffle=float(rng.uniform(0.06, 0.14)) if rng.random() < 0.25 else 0.0,
        fold=float(rng.choice([-1, 1]) * rng.uniform(0.35, 1.0)),
        curl=float(rng.choice([-1, 1]) * rng.uniform(0.2, 0.45)) if rng.random() < 0.2 else 0.0,
        layers=layers,
        shrink=float(rng.uniform(0.62, 0.8) if layers < 4 else rng.uniform(0.76, 0.86)),
        cup=float(rng.choice([0.0, 0.3, -0.2], p=[0.4, 0.4, 0.2])),
        lobed=float(rng.uniform(0.2, 0.45)) if layers == 1 and petals in (3, 5, 6) and rng.random() < 0.45 else 0.0,
    )


def _colours(rng: np.random.Generator) -> Colours:
    tip, other, third = (_pick(rng, _PETAL_COLOURS) for _ in range(3))
    base = [mix(tip, other, rng.uniform(0.6, 1)), mix(tip, 1.0, 0.65), mix(tip, 0.0, 0.4), np.array(tip)][
        int(rng.choice(4, p=[0.3, 0.25, 0.2, 0.25]))
    ]
    dark = mix(third, (0.3, 0.02, 0.12), 0.55)
    accent = dark if sum(tip) > 1.3 or rng.random() < 0.3 else mix(other, 1.0, 0.55)
    inner = other if rng.random() < 0.25 else tip
    return Colours(tip, tuple(base.tolist()), tuple(accent.tolist()), inner, float(rng.uniform(0.2, 0.75)))


def _pattern(rng: np.random.Generator) -> Pattern:
    kind = str(rng.choice(_PATTERNS, p=[0.3, 0.12, 0.14, 0.12, 0.1, 0.1, 0.07, 0.05]))
    veins = float(rng.uniform(0.25, 0.8)) if rng.random() < 0.4 else 0.08
    return Pattern(kind, float(rng.random()), veins, int(rng.integers(4, 9)))


def _heart(rng: np.random.Generator) -> Heart:
    kind = str(rng.choice(_HEARTS, p=[0.28, 0.24, 0.14, 0.12, 0.12, 0.1]))
    low, high = {"disc": (0.14, 0.44), "ring": (0.24, 0.46), "stamens": (0.3, 0.6)}.get(kind, (0.16, 0.36))
    outer, inner = _pick(rng, _HEART_COLOURS), _pick(rng, _HEART_COLOURS)
    return Heart(kind, float(rng.uniform(low, high)), int(rng.integers(6, 30)), outer, inner)


def _habit(rng: np.random.Generator) -> Habit:
    kind = str(rng.choice(["single", "few", "umbel", "spike"], p=[0.6, 0.2, 0.1, 0.1]))
    many = {"single": (1, 2), "few": (2, 5), "umbel": (8, 13), "spike": (7, 11)}[kind]
    tone = mix((0.20, 0.42, 0.14), (0.46, 0.58, 0.40), rng.random()) * rng.uniform(0.8, 1.15)
    return Habit(
        kind=kind,
        blossoms=int(rng.integers(*many)),
        sepals=float(rng.choice([0.0, 0.6, 1.05], p=[0.6, 0.2, 0.2])),
        leaf_width=float(rng.uniform(0.06, 0.34)),
        leaf_tone=tuple(tone.tolist()),
    )


def _genes(version: int, species: int) -> tuple[Form, Colours, Pattern, Heart, Habit]:
    """Draw a species: what its genus shares, and two or three of four groups of genes that are its own."""
    genus = species // GENUS_SIZE
    own = np.random.default_rng((version, 2, species, 1))
    differs = set(own.permutation(_GENES)[: int(own.integers(2, 4))].tolist())

    def source(number: int, name: str) -> np.random.Generator:
        key = (version, 3, species, number) if name in differs else (version, 4, genus, number)
        return np.random.default_rng((*key, 1))  # ends in 1: SeedSequence takes a trailing 0 for nothing

    form, colours, pattern, heart = (source(number, name) for number, name in enumerate(_GENES))
    return _form(form), _colours(colours), _pattern(pattern), _heart(heart), _habit(source(9, "habit"))


@lru_cache(maxsize=128)
def plant(version: int, species: int) -> Plant:
    """Return the species with seed ``species`` of this version of the data set, ready for drawing."""
    form, colours, pattern, heart, habit = _genes(version, species)
    rng = np.random.default_rng((version, 5, species, 1))
    outer = _petal_sheet(form, colours, pattern, colours.tip, rng)
    green = Colours(habit.leaf_tone, habit.leaf_tone, habit.leaf_tone, habit.leaf_tone, 0.5)
    leaf_form = Form(1, "pointed", habit.leaf_width, 0, 0, 0, -0.8, 0, 1, 1, 0, 0)
    return Plant(
        form=form,
        habit=habit,
        petal=outer,
        inner=outer if colours.inner == colours.tip else _petal_sheet(form, colours, pattern, colours.inner, rng),
        heart=_heart_sheet(heart, colours, rng),
        heart_radius=heart.radius,
        leaf=_petal_sheet(leaf_form, green, Pattern("plain", 0, 0.35, 7), habit.leaf_tone, rng),
    )


def _smooth(x: Any, low: float, high: float) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _accent_mask(kind: str, size: float, s: Array, q: Array, gap: Array, rng: np.random.Generator) -> Array:
    """Return where the pattern is, 0..1; ``s`` runs along the petal, ``q`` across (-1..1 between edges)."""
    if kind == "spots":
        count = int(8 + 14 * size)
        at_s, at_q = rng.uniform(0.15, 0.55 + 0.35 * size, count), rng.uniform(-0.8, 0.8, count)
        far = ((s[..., None] - at_s) / 0.045) ** 2 + ((q[..., None] - at_q) / 0.16) ** 2
        return _smooth(-far.min(-1), -1.3, -0.5)
    ragged = s + 0.06 * np.cos(9 * q)
    masks: dict[str, Callable[[], Array]] = {
        "plain": lambda: np.zeros_like(s),
        "blotch": lambda: _smooth(-ragged - 0.25 * q * q, -0.36 - 0.22 * size, -0.26 - 0.22 * size),
        "picotee": lambda: _smooth(-np.minimum(gap * 0.5, (1 - s) * 1.3), -0.12 - 0.12 * size, -0.06),
        "stripe": lambda: _smooth(-np.abs(q), -0.24 - 0.3 * size, -0.14 - 0.2 * size) * _smooth(-s, -0.97, -0.75),
        "band": lambda: _smooth(-np.abs(ragged - 0.42 - 0.2 * size), -0.14, -0.07),
        "tips": lambda: _smooth(s, 0.68 - 0.15 * size, 0.84 - 0.15 * size),
        "half": lambda: _smooth(s, 0.42, 0.5) * 0.85,
    }
    return masks[kind]()


def _petal_sheet(form: Form, colours: Colours, pattern: Pattern, tip: Colour, rng: np.random.Generator) -> Array:
    """Paint one petal lying along the first axis; see `Plant` for the channels."""
    s = np.linspace(0, REACH, LONG)[:, None]
    v = np.linspace(-SIDE, SIDE, WIDE)[None, :]
    length = 1 - form.notch * np.exp(-((v / 0.3) ** 2)) - form.teeth * np.abs((v * 4.5) % 2 - 1) * (np.abs(v) < 1.2)
    t = np.clip(s / length, 0, 1)
    rise, fall = _SHAPES[form.shape]
    peak = rise / (rise + fall)
    half = (t + 0.01) ** rise * (1 - t) ** fall / (peak**rise * (1 - peak) ** fall)
    half = np.maximum(half, 0.14 * (t < 0.5)) * (1 + form.ruffle * np.sin(t * 19 + 2 * np.sign(v)) * t)
    gap, q = half - np.abs(v), np.clip(v / (half + 0.06), -1.2, 1.2)
    cover = np.clip(gap / 0.09 + 0.5, 0, 1) * np.clip((1 - s / length) / 0.025, 0, 1)

    rgb = mix(colours.base, tip, _smooth(t, colours.fade - 0.3, colours.fade + 0.3)[..., None])
    rgb = mix(rgb, colours.accent, _accent_mask(pattern.kind, pattern.size, t, q, gap, rng)[..., None])
    vein = np.abs((q * pattern.lines / 2 + 0.5) % 1 - 0.5) * 2  # 0 on a vein, 1 between two
    vein = (1 - _smooth(vein, 0.0, 0.55)) * _smooth(-t, -0.95, -0.35) * pattern.veins
    rgb = mix(rgb, colours.accent, 0.75 * vein[..., None] * (pattern.veins > 0.1))
    rgb = rgb * (0.66 + 0.34 * _smooth(s, 0.0, 0.45) + 0.05 * _smooth(-gap, -0.3, 0.0))[..., None]

    height = form.fold * (1 - q * q) * 0.5 - 0.10 * np.exp(-((q / 0.16) ** 2)) - 0.07 * vein
    height = height + form.ruffle * 1.6 * np.sin(t * 19 + 2 * np.sign(v)) * np.abs(q) + 0.5 * np.sin(2.6 * t)
    slope_s, slope_v = np.gradient(height, REACH / LONG, 2 * SIDE / WIDE)
    return _sheet(rgb, cover, slope_s, slope_v)


def _sheet(rgb: Array, cover: Array, slope_x: Array, slope_y: Array) -> Array:
    """Stack the channels of a sheet, bare at its border, onto which pixels beyond a sheet are clipped."""
    soft = Image.fromarray((cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2.5))
    shadow = np.maximum(np.asarray(soft) / 255.0 - cover, 0)  # falls on what lies below, around the edge
    cover, keep = cover.copy(), (1 - 0.45 * shadow) * (1 - cover)
    for edge in (np.s_[[0, -1]], np.s_[:, [0, -1]]):
        cover[edge], keep[edge] = 0, 1
    slopes = np.clip(np.stack([slope_x, slope_y], axis=-1), -1, 1)
    sheet = np.concatenate([rgb * cover[..., None], keep[..., None], slopes], axis=-1)
    return np.ascontiguousarray(sheet.astype(np.float32).reshape(-1, 6))


def _dots(x: Array, y: Array, at_x: Array, at_y: Array, radius: float) -> Array:
    """Return 1 in the middle of the nearest dot, 0 from ``radius`` on."""
    far = (x[..., None] - at_x) ** 2 + (y[..., None] - at_y) ** 2
    return np.asarray(np.clip(1 - np.sqrt(far.min(-1)) / radius, 0, 1))


def _heart_sheet(heart: Heart, colours: Colours, rng: np.random.Generator) -> Array:
    """Paint the centre on a square of two radii; see `Plant` for the channels."""
    axis = np.linspace(-1.1, 1.1, HEART)
    x, y = np.meshgrid(axis, axis)
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    n, outer, inner = heart.parts, heart.outer, heart.inner
    rim = np.clip((1 - r) / 0.06, 0, 1)
    if heart.kind == "disc":  # florets on the spiral of a sunflower
        number = np.arange(30 + 4 * n)
        at_r, at_angle = np.sqrt((number + 0.5) / len(number)) * 0.95, number * 2.39996
        dot = _dots(x, y, at_r * np.cos(at_angle), at_r * np.sin(at_angle), 1.5 / np.sqrt(len(number)))
        rgb = mix(inner, outer, _smooth(r, 0.25, 0.75)[..., None]) * (0.55 + 0.6 * dot[..., None])
        cover, height = rim, 0.6 * np.sqrt(np.clip(1.05 - r * r, 0, 1)) + 0.05 * dot
    elif heart.kind == "stamens":
        turn, far = np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.1, n), rng.uniform(0.6, 0.95, n)
        anther = _dots(x, y, far * np.cos(turn), far * np.sin(turn), 0.17)
        along = x[..., None] * np.cos(turn) + y[..., None] * np.sin(turn)
        off = np.abs(y[..., None] * np.cos(turn) - x[..., None] * np.sin(turn)) + 9 * ((along < 0) | (along > far))
        thread, boss = np.clip(1.4 - off.min(-1) / 0.035, 0, 1) * 0.85, _smooth(-r, -0.24, -0.16)
        rgb = mix(mix(mix(inner, 1.0, 0.45), outer, _smooth(anther, 0.1, 0.35)[..., None]), inner, boss[..., None])
        cover, height = (
            np.maximum(np.maximum(thread, _smooth(anther, 0.1, 0.4)), boss),
            0.2 * anther - 0.3 * r * boss,
        )
    elif heart.kind == "ring":  # the cup of a daffodil
        edge = 0.93 + 0.06 * np.sin(angle * (n // 2 + 4))
        cover, wall = np.clip((edge - r) / 0.06, 0, 1), _smooth(r, 0.3, 0.85)
        rgb = mix(np.array(inner) * 0.55, outer, wall[..., None]) * (0.9 + 0.1 * np.cos(angle * 3 * n))[..., None]
        height = -0.5 * np.cos(np.clip(r, 0, 1) * 2.6)
    elif heart.kind == "tube":  # a dark throat, a pale style in it
        star = _dots(x, y, 0.2 * np.cos(np.arange(n % 4 + 2) * 2.1), 0.2 * np.sin(np.arange(n % 4 + 2) * 2.1), 0.26)
        rgb = mix(np.array(colours.base) * 0.35, mix(outer, 1.0, 0.4), _smooth(star, 0.2, 0.6)[..., None])
        cover, height = _smooth(-r, -1.0, -0.45), 0.5 * r + 0.4 * star
    elif heart.kind == "star":  # the lobes of a stigma
        edge = 0.62 + 0.32 * np.cos(angle * (n % 4 + 3))
        cover, height = np.clip((edge - r) / 0.12, 0, 1), -0.5 * r
        rgb = mix(outer, inner, _smooth(r / edge, 0.25, 0.8)[..., None])
    else:  # a whorl of petals still closed
        wave = np.cos(angle * (n % 3 + 2) - 7 * np.sqrt(r))
        cover, height = rim, 0.25 * wave - 0.3 * r
        rgb = mix(np.array(colours.inner) * 0.62, colours.inner, (0.5 + 0.5 * wave)[..., None])
    slopes: Any = np.gradient(height, 2.2 / HEART)  # along y, along x
    return _sheet(rgb, cover, slopes[1], slopes[0])
