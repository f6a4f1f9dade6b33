"""The embedded data set ``synthetic-flowers``: pictures of invented flower species, drawn, not downloaded.

It owns the pictures (pose, light, background, what stands in front), the names of the species and the splits.
How a species looks is in ``flowers``. A picture is a function of (`VERSION`, species seed, image number);
apart from the blossoms, leaves and the way a plant carries them, nothing in it depends on the species.
"""

import contextlib
import io
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageFilter

from pipeline.data.flowers import GENUS_SIZE, HEART, LONG, REACH, SIDE, WIDE, Array, Plant, mix, plant
from pipeline.errors import refuse

VERSION = 1  # raise it with any change to the pixels or the names: caches are keyed on it
_STRANGERS = 1 << 30  # seeds from here on: plants that only stand in the background
_HEADS = "Ros Vern Lil Cal Mel Sol Nym Aur Cor Dulc Flam Gal Hel Ir Jov Lun Mir Nel Or Pal Quer Sil Tal Ul"
_MIDDLES = "and ell id im od or ov um ys ent ic ar"
_TAILS = "ia ula issa aria antha ella opsis ina"
_EPITHETS = (
    "agrestis alpina amabilis arvensis borealis communis elegans fragrans gracilis hortensis humilis "
    "insignis litoralis montana mirabilis nobilis orientalis palustris pratensis pulchella rivalis "
    "silvestris vernalis vulgaris hybrida"
)
_SCENES = ("foliage", "bokeh", "sky", "soil", "dark", "lawn", "plain")


@dataclass(frozen=True)
class Light:
    """The light of one picture."""

    angle: float  # radians, where it comes from
    harsh: float  # strength of the shading
    tint: Array  # (3,), colour jitter of the plant


@dataclass(frozen=True)
class Pose:
    """How one blossom is held before the camera: pixels of the canvas, radians."""

    x: float
    y: float
    radius: float
    tilt: float  # 0 looks into the camera
    lean: float  # direction of the tilt
    turn: float


def _window(canvas: Array, x: float, y: float, reach: float) -> tuple[Array, Array, Array]:
    """Return the part of the canvas within ``reach`` pixels, and the offsets of its pixels from (x, y)."""
    height, width = canvas.shape[:2]
    left, top = max(int(x - reach), 0), max(int(y - reach), 0)
    right, bottom = min(int(x + reach) + 2, width), min(int(y + reach) + 2, height)
    part = canvas[top : max(bottom, top), left : max(right, left)]
    dy = np.arange(top, top + part.shape[0], dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(left, left + part.shape[1], dtype=np.float32)[None, :] - np.float32(x)
    return part, dx, dy


def _petal_texel(x: Array, y: Array) -> Array:
    """Return the texel of a petal sheet at ``x`` petal lengths along and ``y`` half widths across."""
    row = np.clip(x * (LONG / REACH), 0, LONG - 1).astype(np.int32)
    return row * WIDE + np.clip((y + SIDE) * (WIDE / (2 * SIDE)), 0, WIDE - 1).astype(np.int32)


def _lay(rgb: Array, at: Array, texels: Array, shade: Array, light: Light) -> None:
    """Lay texels over the pixels ``at`` of ``rgb``, in place."""
    rgb[at] = rgb[at] * texels[:, 3:4] + texels[:, :3] * (shade[:, None] * light.tint)


def _dimmed(light: Light, gain: float) -> Light:
    return Light(light.angle, light.harsh, light.tint * np.float32(gain))


def _draw_leaf(canvas: Array, sheet: Array, x: float, y: float, shape: tuple[float, ...], light: Light) -> None:
    """Draw a leaf from (x, y); ``shape``: direction (radians), length and half width (pixels), bend."""
    angle, length, width, bend = shape
    cos, sin = math.cos(angle), math.sin(angle)
    part, dx, dy = _window(canvas, x + 0.5 * length * cos, y + 0.5 * length * sin, length * 0.6 + width)
    if not part.size:
        return
    along = ((dx * cos + dy * sin) / length).ravel() + 0.5
    across = (dy * cos - dx * sin).ravel() / width - bend * along * along * length / width
    texel = _petal_texel(along, across)
    at = np.flatnonzero(sheet[:, 3].take(texel) < 0.99)
    texels = sheet.take(texel[at], axis=0)
    lit = light.harsh * (texels[:, 4] * math.cos(light.angle - angle) + texels[:, 5] * math.sin(light.angle - angle))
    rgb = part.reshape(-1, 3)
    _lay(rgb, at, texels, 1 - lit, light)
    part[...] = rgb.reshape(part.shape)


def _draw_layer(
    rgb: Array,
    polar: tuple[Array, Array, Array],
    look: Plant,
    layer: int,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Draw one layer of petals over ``rgb`` (pixels, 3), in place; ``polar`` is u, v and angle per pixel."""
    form, sheet = look.form, look.petal if layer <= 0 else look.inner
    n, scale = form.petals, form.shrink**layer
    if layer < 0:  # the sepals, half a step aside
        sheet, scale = look.leaf, look.habit.sepals
    step = 2 * np.pi / n
    start = np.pi / 2 + step * 0.5 * (layer % 2)
    u, v, angle = polar
    near = np.flatnonzero(u * u + v * v < (1.25 * scale * (1 + form.lobed)) ** 2)
    u, v, angle = u[near], v[near], angle[near]

    axis = start + step * np.arange(n) + rng.normal(0, 0.07 * step, n)
    length = scale * (1 + rng.normal(0, 0.05, n)) * (1 + form.lobed * np.sin(axis))
    width = length * (form.width if layer >= 0 else 0.22) * (1 + rng.normal(0, 0.06, n))
    facing = np.stack([np.cos(light.angle - axis), np.sin(light.angle - axis)]).astype(np.float32)
    own = (1 + light.harsh * 0.5 * form.cup * -facing[0] + rng.normal(0, 0.035, n) - 0.03 * layer).astype(np.float32)
    table = np.stack([np.cos(axis) / length, np.sin(axis) / length, -np.sin(axis) / width, np.cos(axis) / width])
    table = table.astype(np.float32)
    curl = float(form.curl * length.mean() / width.mean())
    first = np.floor((angle - start) / step).astype(np.int32)
    for k in (first % n, (first + 1) % n):  # every petal lies over one neighbour and under the other
        x = u * table[0].take(k) + v * table[1].take(k)
        y = u * table[2].take(k) + v * table[3].take(k) - curl * x * x
        texel = _petal_texel(x, y)
        hit = np.flatnonzero(sheet[:, 3].take(texel) < 0.99)
        texels, k = sheet.take(texel[hit], axis=0), k[hit]  # noqa: PLW2901 - the part of k that is hit
        slopes = texels[:, 4] * facing[0].take(k) + texels[:, 5] * facing[1].take(k)
        _lay(rgb, near[hit], texels, own.take(k) - light.harsh * slopes, light)


def _draw_blossom(canvas: Array, look: Plant, pose: Pose, light: Light, rng: np.random.Generator) -> None:
    part, dx, dy = _window(canvas, pose.x, pose.y, pose.radius * 1.4)
    if not part.size:
        return
    cos, sin = math.cos(pose.lean) / pose.radius, math.sin(pose.lean) / pose.radius
    far, b = (dx * cos + dy * sin) / math.cos(pose.tilt), dy * cos - dx * sin
    # Petals of a cup rise from the plane: seen askew, the far ones look longer and the near ones shorter.
    rise = max(-0.35, min(0.35, look.form.cup * math.tan(pose.tilt)))
    a = far - rise * np.minimum(far * far + b * b, 1.3)
    a = far - rise * np.minimum(a * a + b * b, 1.3)
    inside = np.flatnonzero((a * a + b * b).ravel() < 1.5**2)
    a, b = a.ravel()[inside], b.ravel()[inside]
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    u, v = a * cos + b * sin, b * cos - a * sin
    flat = part.reshape(-1, 3)
    rgb = flat[inside]
    held = Light(light.angle - pose.lean - pose.turn, light.harsh, light.tint)
    polar = (u, v, np.arctan2(v, u))
    for layer in range(-1 if look.habit.sepals else 0, look.form.layers):
        _draw_layer(rgb, polar, look, layer, held, rng)
    size = look.heart_radius * 1.1
    at = np.flatnonzero((np.abs(u) < size) & (np.abs(v) < size))
    grid = ((np.stack([v[at], u[at]]) / size + 1) * (HEART / 2)).astype(np.int32)
    grid = np.minimum(grid, HEART - 1)  # float32 rounds the last pixels up
    texels = look.heart.take(grid[0] * HEART + grid[1], axis=0)
    slopes = texels[:, 4] * math.cos(held.angle) + texels[:, 5] * math.sin(held.angle)
    _lay(rgb, at, texels, 1 - light.harsh * 0.8 * slopes, light)
    flat[inside] = rgb
    part[...] = flat.reshape(part.shape)


def _noise(rng: np.random.Generator, cells: int, size: int) -> Array:
    """Return smooth noise of (size, size, 1), about 0..1."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))[..., None]


def _blur(canvas: Array, radius: float, scale: int = 1) -> Array:
    """Return the canvas out of focus, and larger by ``scale``."""
    image = Image.fromarray(np.clip(canvas * 255, 0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def _background(rng: np.random.Generator, version: int, size: int) -> Array:
    """Return what is behind the plant, (2 size, 2 size, 3): never a function of the species.

    It is out of focus, so it is drawn at half the size of the canvas.
    """
    scene = str(rng.choice(_SCENES, p=[0.3, 0.16, 0.12, 0.12, 0.1, 0.12, 0.08]))
    low, high = {
        "sky": ((0.35, 0.55, 0.85), (0.85, 0.90, 0.96)),
        "soil": ((0.20, 0.14, 0.10), (0.50, 0.40, 0.30)),
        "dark": ((0.01, 0.02, 0.01), (0.10, 0.13, 0.08)),
        "plain": ((0.35, 0.33, 0.30), (0.80, 0.78, 0.74)),
    }.get(scene, ((0.06, 0.14, 0.04), (0.48, 0.60, 0.26)))
    shift = rng.normal(0, 0.03, 3)
    weave = _noise(rng, 4, size) * 0.6 + _noise(rng, 11, size) * 0.4
    if scene == "soil":
        weave = weave * 0.6 + _noise(rng, max(size // 4, 4), size) * 0.4
    canvas = np.ascontiguousarray(mix(np.array(low) + shift, np.array(high) + shift, weave))
    light = Light(rng.uniform(-3.1, 0), 0.4, np.ones(3, dtype=np.float32))
    if scene in ("foliage", "lawn", "bokeh"):
        for _ in range(int(rng.integers(6, 14))):
            sheet = plant(version, _STRANGERS + int(rng.integers(40))).leaf
            dim = _dimmed(light, rng.uniform(0.5, 1.3))
            x, y, angle = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(-np.pi, np.pi)
            if scene == "lawn":
                shape = (
                    rng.normal(-np.pi / 2, 0.3),
                    size * rng.uniform(0.5, 1.1),
                    size * 0.02,
                    rng.normal(0, 0.2),
                )
                y += size * 0.4
            else:
                shape = (
                    angle,
                    size * rng.uniform(0.2, 0.6),
                    size * rng.uniform(0.04, 0.12),
                    rng.normal(0, 0.2),
                )
            _draw_leaf(canvas, sheet, x, y, shape, dim)
    if scene == "bokeh" or rng.random() < 0.12:
        for _ in range(int(rng.integers(3, 12))):
            part, dx, dy = _window(
                canvas, rng.uniform(0, size), rng.uniform(0, size), reach := size * rng.uniform(0.03, 0.13)
            )
            part += np.clip(reach - np.hypot(dx, dy), 0, 1)[..., None] * rng.uniform(0.05, 0.35, 3)
    if rng.random() < 0.2:  # another species in bloom, far out of focus
        stranger = plant(version, _STRANGERS + int(rng.integers(40)))
        for _ in range(int(rng.integers(1, 4))):
            x, y = rng.uniform(0, size, 2)
            pose = Pose(x, y, size * rng.uniform(0.08, 0.2), rng.uniform(0, 0.8), *rng.uniform(0, 6, 2))
            _draw_blossom(canvas, stranger, pose, light, rng)
        canvas = _blur(canvas, size * 0.025)
    return _blur(canvas, size * rng.uniform(0.004, 0.035), scale=2)


def _poses(rng: np.random.Generator, look: Plant, size: int) -> list[Pose]:
    """Return how the blossoms of one plant stand, in the order of drawing."""
    n, order, kind = look.habit.blossoms, np.arange(look.habit.blossoms), look.habit.kind
    x, y = size * (0.5 + rng.normal(0, 0.1, 2))
    radius, tilt, turn = size * rng.uniform(0.23, 0.46), abs(rng.normal(0, 0.5)), rng.uniform(0, 6.3)
    # of every blossom: place and size in radii of the plant, tilt and where to
    lean, tilts, sizes = np.full(n, turn), np.full(n, tilt), np.ones(n)
    at_x = at_y = np.zeros(n)
    if kind == "few":
        lean, tilts = turn + order * 2 * np.pi / n + rng.normal(0, 0.25, n), tilt + abs(rng.normal(0, 0.2, n))
        far, sizes = rng.uniform(0.55, 0.85, n), rng.uniform(0.5, 0.68, n)
        at_x, at_y = far * np.cos(lean), far * np.sin(lean)
    elif kind == "umbel":  # a dome of florets, the outer ones first
        lean, far = turn + order[::-1] * 2.39996, np.sqrt((order[::-1] + 0.3) / n)
        tilts, sizes = 0.9 * far, np.full(n, 1.25 / math.sqrt(n))
        at_x, at_y = far * np.cos(lean), far * np.sin(lean) * math.cos(min(tilt, 0.9))
    elif kind == "spike":  # from its top down, left and right in turn
        at_y = np.linspace(-1.2, 1.2, n)
        side = np.where(order % 2, 0.22, -0.22) * rng.uniform(0.7, 1.2, n)
        at_x, sizes = side + rng.normal(0, 0.2) * at_y, 0.4 + 0.1 * at_y
        lean, tilts = np.pi * (side < 0), rng.uniform(0.5, 0.8, n)
    turns = rng.normal(0, 0.3, n) - lean if look.form.lobed else rng.uniform(0, 6.3, n)  # a face is held upright
    rows = np.stack([x + radius * at_x, y + radius * at_y, radius * sizes, np.minimum(tilts, 1.05), lean, turns], 1)
    return [Pose(*row) for row in rows.tolist()]


def _draw_plant(canvas: Array, look: Plant, light: Light, rng: np.random.Generator) -> None:
    """Draw the plant in the middle of the picture: stems, leaves, blossoms."""
    size = canvas.shape[0]
    poses = _poses(rng, look, size)
    foot = (size * rng.normal(0.5, 0.2), size * 1.15)
    for stem in poses[:: 1 if look.habit.kind in ("single", "few") else 4]:
        dx, dy = foot[0] - stem.x, foot[1] - stem.y
        shape = (math.atan2(dy, dx), 1.3 * math.hypot(dx, dy), size * 0.017, rng.normal(0, 0.06))
        _draw_leaf(canvas, look.leaf, stem.x, stem.y, shape, _dimmed(light, 0.8))
    for _ in range(int(rng.integers(0, 5))):
        length = size * rng.uniform(0.25, 0.6)
        x, y = rng.uniform(0.2, 0.8) * size, rng.uniform(0.5, 1.1) * size
        shape = (rng.uniform(-2.8, -0.3), length, length * look.habit.leaf_width, rng.normal(0, 0.25))
        _draw_leaf(canvas, look.leaf, x, y, shape, _dimmed(light, rng.uniform(0.75, 1.1)))
    for pose in poses:
        _draw_blossom(canvas, look, pose, light, rng)


def _draw_neighbours(canvas: Array, look: Plant, light: Light, rng: np.random.Generator) -> Array:
    """Draw further blossoms of the species behind, in focus or out of it, and return the canvas."""
    size = canvas.shape[0]
    share = 1.0 if look.habit.kind == "single" else 0.55
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.05, 1.05, 2) * size
        turn = rng.normal(0, 0.3) if look.form.lobed else rng.uniform(0, 6.3)
        radius = share * size * rng.uniform(0.14, 0.32)
        _draw_blossom(canvas, look, Pose(x, y, radius, abs(rng.normal(0, 0.6)) % 1.05, 0.0, turn), light, rng)
    return _blur(canvas, size * rng.uniform(0.004, 0.02)) if rng.random() < 0.6 else canvas


def _expose(canvas: Array, rng: np.random.Generator) -> Array:
    """Return the canvas as a camera records it at half the size, uint8: light, shadows, cast, grain."""
    size = canvas.shape[0] // 2
    image = (canvas[::2, ::2] + canvas[1::2, ::2] + canvas[::2, 1::2] + canvas[1::2, 1::2]) * np.float32(0.25)
    warmth, green = rng.normal(0, 0.07), rng.normal(0, 0.02)
    cast = np.array([1 + warmth, 1 + green, 1 - warmth], dtype=np.float32) * math.exp(rng.normal(0, 0.2))
    if rng.random() < 0.5:  # dappled shade, or the edge of a shadow
        shade = np.clip(
            (_noise(rng, int(rng.integers(2, 6)), size) - rng.uniform(0.2, 0.5)) * rng.uniform(1.2, 3.5), 0, 1
        )
        cast = cast * (1 - rng.uniform(0.2, 0.55) * (1 - shade))
    image = image * cast
    grey = image.mean(axis=-1, keepdims=True)
    image = (grey + (image - grey) * rng.uniform(0.75, 1.2) - 0.45) * rng.uniform(0.8, 1.2) + 0.45
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.004, 0.03)
    image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)  # highlights roll off
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8))


def _picture(version: int, species: int, index: int, size: int) -> Array:
    rng = np.random.default_rng((version, 1, species, index, 1))
    look = plant(version, species)
    tint = np.exp(rng.normal(0, 0.045, 3) + rng.normal(0, 0.05)).astype(np.float32)
    light = Light(rng.uniform(-np.pi, 0), rng.uniform(0.12, 0.5), tint)
    canvas = _background(rng, version, size)
    if rng.random() < 0.4:
        canvas = _draw_neighbours(canvas, look, light, rng)
    _draw_plant(canvas, look, light, rng)
    if rng.random() < 0.3:  # something of another plant in front
        leaf = plant(version, _STRANGERS + int(rng.integers(40))).leaf
        dim = _dimmed(light, rng.uniform(0.5, 1.2))
        for _ in range(int(rng.integers(1, 3))):
            x, width = rng.uniform(0, 2 * size), 2 * size * rng.uniform(0.012, 0.06)
            shape = (rng.normal(-np.pi / 2, 0.5), 2 * size * rng.uniform(0.6, 1.3), width, rng.normal(0, 0.2))
            _draw_leaf(canvas, leaf, x, 2.1 * size, shape, dim)
    if (soft := rng.random()) < 0.4:
        canvas = _blur(canvas, 2 * soft)
    return _expose(canvas, rng)


def draw(species: int, index: int, size: int = 64) -> Array:
    """Return picture number ``index`` of a species: upright RGB, uint8, (size, size, 3).

    Args:
        species: Seed of the species, 0 or more. Those with the same ``species // 3`` are of one genus: alike.
        index: Number of the picture, 0 or more.
        size: Pixels.
    """
    return _picture(VERSION, species, index, size)


def species_name(species: int) -> str:
    """Return the invented botanical name of a species: its genus, shared by three, and an epithet."""
    genus, rank = divmod(species, GENUS_SIZE)
    heads, middles, tails, epithets = (words.split() for words in (_HEADS, _MIDDLES, _TAILS, _EPITHETS))
    # A step that shares no factor with the number of names visits each once, neighbours far apart.
    again, place = divmod(genus, names := len(heads) * len(middles) * len(tails))
    place, tail = divmod(place * 7919 % names, len(tails))
    head, middle = divmod(place, len(middles))
    name = heads[head] + middles[middle] * (again + 1) + tails[tail]
    return f"{name} {epithets[(genus * 11 + rank * 13) % len(epithets)]}"


def _rows(*, species: list[int], first: int, images: range, size: int, version: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split; `datasets` deals out ``species``, the one list, to its processes."""
    for seed in species:
        for index in images:
            file = io.BytesIO()
            Image.fromarray(_picture(version, seed, index, size)).save(file, "png", compress_level=4)
            yield {"image": {"bytes": file.getvalue(), "path": None}, "label": seed - first}


@contextlib.contextmanager
def _bars_on_a_terminal() -> Iterator[None]:
    hide = not sys.stderr.isatty() and not datasets.utils.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def load_synthetic(
    *,
    num_species: int = 102,
    first_species: int = 0,
    train: int = 10,
    validation: int = 10,
    test: int = 20,
    size: int = 64,
) -> datasets.DatasetDict:
    """Return the data set, drawn on all cores the first time and from the cache of `datasets` afterwards.

    Args:
        num_species: Number of classes.
        first_species: Seed of the first one; label 0 is this species.
        train: Images of a species in this split, numbered from 0; 0 leaves the split out.
        validation: The same, numbered on from ``train``.
        test: The same, numbered on from ``validation``.
        size: Pixels, width and height.

    Returns:
        Splits with ``image`` (PNG bytes, not decoded) and ``label``, species after species.

    Raises:
        PipelineError: If a number is out of range.
    """
    counts = {"train": train, "validation": validation, "test": test}
    refuse(
        f"synthetic-flowers: {name} must be {least} or more, not {value}."
        for name, value, least in [
            ("num_species", num_species, 1),
            ("first_species", first_species, 0),
            ("size", size, 8),
            *((name, count, 0) for name, count in counts.items()),
        ]
        if value < least
    )
    seeds = list(range(first_species, first_species + num_species))
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=[species_name(s) for s in seeds])
    )
    splits, start = datasets.DatasetDict(), 0
    for name, count in counts.items():
        if count:
            # The arguments are the cache key, which sees no source code: hence the version among them.
            with _bars_on_a_terminal():
                splits[name] = datasets.Dataset.from_generator(
                    _rows,
                    features=features,
                    gen_kwargs={
                        "species": seeds,
                        "first": first_species,
                        "images": range(start, start + count),
                        "size": size,
                        "version": VERSION,
                    },
                    num_proc=_processes(num_species),
                    split=datasets.NamedSplit(name),
                )
        start += count
    return splits


def _processes(tasks: int) -> int | None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, tasks) if min(cores, tasks) > 1 else None
