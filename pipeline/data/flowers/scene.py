"""Draws a whole picture: the plant, with what is behind it and before it, as a camera sees it."""

import math

import numpy as np

from pipeline.data.flowers.background import draw_background
from pipeline.data.flowers.blossom import draw_blossom
from pipeline.data.flowers.camera import expose
from pipeline.data.flowers.leaves import Blade, draw_leaf
from pipeline.data.flowers.plants import Plant, plant, stranger
from pipeline.data.flowers.posture import neighbour_pose, poses
from pipeline.data.flowers.raster import Array, blur
from pipeline.data.flowers.seeds import Stream, generator
from pipeline.data.flowers.sheets import Light


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
