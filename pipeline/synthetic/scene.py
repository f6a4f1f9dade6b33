"""Draws a whole picture: the plant, with what is behind it and before it, as a camera sees it."""

import math

import numpy as np

from pipeline.synthetic.background import draw_background
from pipeline.synthetic.blossom import Blade, draw_blossom, draw_leaf
from pipeline.synthetic.plants import Plant, plant, stranger
from pipeline.synthetic.posture import neighbour_pose, poses
from pipeline.synthetic.raster import Array, blur, noise
from pipeline.synthetic.seeds import Stream, generator
from pipeline.synthetic.sheets import Light


def draw(species: int, index: int, *, size: int, version: int) -> Array:
    """Return picture number `index` of a species: upright RGB, uint8, (size, size, 3).

    It is a function of the arguments alone. Apart from the blossoms, the leaves and the way the plant carries
    them, nothing in it depends on the species.

    Args:
        species: Seed of the species, 0 or more. Those with the same `species // 3` are of one genus: alike.
        index: Number of the picture, 0 or more.
        size: Pixels, width and height.
        version: Of the data set; another one has other species and other pictures.
    """
    rng = generator(version, Stream.PICTURE, species, index)
    shown = plant(version, species)
    tint = np.exp(rng.normal(0, 0.045, 3) + rng.normal(0, 0.05)).astype(np.float32)
    light = Light(angle=rng.uniform(-np.pi, 0), harsh=rng.uniform(0.12, 0.5), tint=tint)
    canvas = draw_background(version, size, rng)  # twice the size: every pixel is the mean of four
    if rng.random() < 0.4:
        canvas = _draw_neighbours(canvas, shown, light, rng)
    _draw_plant(canvas, shown, light, rng)
    if rng.random() < 0.3:
        _draw_foreground(canvas, stranger(version, rng), light, rng)
    if (soft := rng.random()) < 0.4:
        canvas = blur(canvas, 2 * soft)
    return expose(canvas, rng)


def _draw_neighbours(canvas: Array, shown: Plant, light: Light, rng: np.random.Generator) -> Array:
    """Draw further blossoms of the species behind, in focus or out of it, and return the canvas."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        draw_blossom(canvas, shown, neighbour_pose(shown, size, rng), light, rng)
    return blur(canvas, size * rng.uniform(0.004, 0.02)) if rng.random() < 0.6 else canvas


def _draw_plant(canvas: Array, shown: Plant, light: Light, rng: np.random.Generator) -> None:
    """Draw the plant in the middle of the picture: stems, leaves, blossoms."""
    size, habit = canvas.shape[0], shown.habit
    blossoms = poses(shown, size, rng)
    foot_x, foot_y = size * rng.normal(0.5, 0.2), size * 1.15
    for top in blossoms[:: 1 if habit.kind in ("single", "few") else 4]:
        dx, dy = foot_x - top.x, foot_y - top.y
        stem = Blade(
            x=top.x,
            y=top.y,
            angle=math.atan2(dy, dx),
            length=1.3 * math.hypot(dx, dy),  # its narrow end is out of the picture
            width=size * 0.017,
            bend=rng.normal(0, 0.06),
        )
        draw_leaf(canvas, shown.leaf, stem, light.dimmed(0.8))
    for _ in range(int(rng.integers(0, 5))):
        length = size * rng.uniform(0.25, 0.6)
        leaf = Blade(
            x=rng.uniform(0.2, 0.8) * size,
            y=rng.uniform(0.5, 1.1) * size,
            angle=rng.uniform(-2.8, -0.3),
            length=length,
            width=length * habit.leaf_width,
            bend=rng.normal(0, 0.25),
        )
        draw_leaf(canvas, shown.leaf, leaf, light.dimmed(rng.uniform(0.75, 1.1)))
    for pose in blossoms:
        draw_blossom(canvas, shown, pose, light, rng)


def _draw_foreground(canvas: Array, other: Plant, light: Light, rng: np.random.Generator) -> None:
    """Draw leaves of another plant that stand before this one."""
    size = canvas.shape[0]
    dimmed = light.dimmed(rng.uniform(0.5, 1.2))
    for _ in range(int(rng.integers(1, 3))):
        x, width = rng.uniform(0, size), size * rng.uniform(0.012, 0.06)
        leaf = Blade(
            x=x,
            y=1.05 * size,
            angle=rng.normal(-np.pi / 2, 0.5),
            length=size * rng.uniform(0.6, 1.3),
            width=width,
            bend=rng.normal(0, 0.2),
        )
        draw_leaf(canvas, other.leaf, leaf, dimmed)


_MID_GREY = 0.45  # contrast leaves it where it is
_SHOULDER, _ROOM = 0.8, 0.2  # highlights roll off: what is brighter than the one is pressed into the other


def expose(canvas: Array, rng: np.random.Generator) -> Array:
    """Return the picture of a canvas, at half its size: (size, size, 3), uint8."""
    image = (canvas[::2, ::2] + canvas[1::2, ::2] + canvas[::2, 1::2] + canvas[1::2, 1::2]) * np.float32(0.25)
    image = image * _illumination(len(image), rng)
    grey = image.mean(axis=-1, keepdims=True)
    saturated = grey + (image - grey) * rng.uniform(0.75, 1.2)
    image = (saturated - _MID_GREY) * rng.uniform(0.8, 1.2) + _MID_GREY
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.004, 0.03)
    image = np.where(image > _SHOULDER, _SHOULDER + _ROOM * np.tanh((image - _SHOULDER) / _ROOM), image)
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8))


def _illumination(size: int, rng: np.random.Generator) -> Array:
    """Return the light on every pixel, (size, size, 3), or on all alike, (3,)."""
    warmth, green = rng.normal(0, 0.07), rng.normal(0, 0.02)
    brightness = math.exp(rng.normal(0, 0.2))
    cast = np.array([1 + warmth, 1 + green, 1 - warmth], dtype=np.float32) * brightness
    if rng.random() < 0.5:  # dappled shade, or the edge of a shadow
        bright = noise(rng, cells=int(rng.integers(2, 6)), size=size)
        bright = np.clip((bright - rng.uniform(0.2, 0.5)) * rng.uniform(1.2, 3.5), 0, 1)
        cast = cast * (1 - rng.uniform(0.2, 0.55) * (1 - bright))
    return cast
