"""Renders a complete image: background, neighbors, plant, foreground and camera effects."""

import math
from typing import Any

import numpy as np

from pipeline.synthetic.background import render_background
from pipeline.synthetic.blossom import Blade, render_blossom, render_leaf
from pipeline.synthetic.plants import Plant, background_plant, plant
from pipeline.synthetic.poses import neighbor_pose, poses
from pipeline.synthetic.raster import Array, blur, noise
from pipeline.synthetic.seeds import Stream, generator
from pipeline.synthetic.textures import Light


def render(species: int, index: int, *, size: int, version: int, dusk: bool = False) -> Array:
    """Render one image of a species.

    The image is a deterministic function of the arguments. Only blossoms, leaves and their arrangement depend on the
    species.

    Args:
        species: Seed of the species, 0 or more. Species with the same `species // 3` form a genus and look similar.
        index: Number of the image, 0 or more.
        size: Width and height in pixels.
        version: Version of the dataset. Another version has other species and other images.
        dusk: Whether the same scene is photographed at dusk: dark, bluish and grainy.

    Returns:
        RGB pixels, (size, size, 3), uint8.
    """
    rng = generator(version, Stream.IMAGE, species, index)
    main_plant = plant(version, species)
    tint = np.exp(rng.normal(0, 0.045, 3) + rng.normal(0, 0.05)).astype(np.float32)
    light = Light(angle=rng.uniform(-np.pi, 0), harsh=rng.uniform(0.12, 0.5), tint=tint)
    canvas = render_background(version, size, rng)  # The canvas has twice the size: each pixel is the mean of four.
    if rng.random() < 0.4:
        canvas = _render_neighbors(canvas, main_plant, light, rng)
    _render_plant(canvas, main_plant, light, rng)
    if rng.random() < 0.3:
        _render_foreground(canvas, background_plant(version, rng), light, rng)
    if (soft := rng.random()) < 0.4:
        canvas = blur(canvas, 2 * soft)
    return expose(canvas, rng, dusk=dusk)


def _render_neighbors(canvas: Array, main_plant: Plant, light: Light, rng: np.random.Generator) -> Array:
    """Render more blossoms of the species behind the plant, sometimes blurred, and return the canvas."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        render_blossom(canvas, main_plant, neighbor_pose(main_plant, size, rng), light, rng)
    return blur(canvas, size * rng.uniform(0.004, 0.02)) if rng.random() < 0.6 else canvas


def _render_plant(canvas: Array, main_plant: Plant, light: Light, rng: np.random.Generator) -> None:
    """Render the plant in the middle of the image: stems, leaves and blossoms."""
    size, habit = canvas.shape[0], main_plant.habit
    blossoms = poses(main_plant, size, rng)
    root_x, root_y = size * rng.normal(0.5, 0.2), size * 1.15
    for top in blossoms[:: 1 if habit.kind in ("single", "few") else 4]:
        dx, dy = root_x - top.x, root_y - top.y
        stem = Blade(
            x=top.x,
            y=top.y,
            angle=math.atan2(dy, dx),
            length=1.3 * math.hypot(dx, dy),  # Its narrow end is outside of the image.
            width=size * 0.017,
            bend=rng.normal(0, 0.06),
        )
        render_leaf(canvas, main_plant.leaf, stem, light.dimmed(0.8))
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
        render_leaf(canvas, main_plant.leaf, leaf, light.dimmed(rng.uniform(0.75, 1.1)))
    for pose in blossoms:
        render_blossom(canvas, main_plant, pose, light, rng)


def _render_foreground(canvas: Array, other: Plant, light: Light, rng: np.random.Generator) -> None:
    """Render leaves of another plant in front of this one."""
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
        render_leaf(canvas, other.leaf, leaf, dimmed)


_MID_GRAY = 0.45  # The contrast does not change this value.
_SHOULDER, _ROOM = 0.8, 0.2  # Values above the shoulder are compressed into the room above it.
_DUSK_LIGHT = np.array([0.8, 0.9, 1.2], dtype=np.float32)  # RGB


def expose(canvas: Array, rng: np.random.Generator, *, dusk: bool = False) -> Array:
    """Return the image of a canvas at half its size, with camera effects, by day or at dusk: (size, size, 3), uint8."""
    image: Any = (canvas[::2, ::2] + canvas[1::2, ::2] + canvas[::2, 1::2] + canvas[1::2, 1::2]) * np.float32(0.25)
    image = image * _illumination(len(image), rng)
    gray = image.mean(axis=-1, keepdims=True)
    saturated = gray + (image - gray) * rng.uniform(0.75, 1.2)
    image = (saturated - _MID_GRAY) * rng.uniform(0.8, 1.2) + _MID_GRAY
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.004, 0.03)
    if dusk:  # This is the last random effect, so that everything else equals the image by day.
        image = _darken(image, rng)
    image = np.where(image > _SHOULDER, _SHOULDER + _ROOM * np.tanh((image - _SHOULDER) / _ROOM), image)
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8))


def _illumination(size: int, rng: np.random.Generator) -> Array:
    """Return the light on each pixel, (size, size, 3), or one value for all pixels, (3,)."""
    warmth, green = rng.normal(0, 0.07), rng.normal(0, 0.02)
    brightness = math.exp(rng.normal(0, 0.2))
    cast = np.array([1 + warmth, 1 + green, 1 - warmth], dtype=np.float32) * brightness
    if rng.random() < 0.5:  # Add dappled shade or the edge of a shadow.
        bright = noise(rng, cells=int(rng.integers(2, 6)), size=size)
        bright = np.clip((bright - rng.uniform(0.2, 0.5)) * rng.uniform(1.2, 3.5), 0, 1)
        cast = cast * (1 - rng.uniform(0.2, 0.55) * (1 - bright))
    return cast


def _darken(image: Array, rng: np.random.Generator) -> Array:
    """Return the image as taken at dusk: dark, bluish and grainy."""
    grain = rng.standard_normal(image.shape, dtype=np.float32) * 0.02
    return np.asarray(image * _DUSK_LIGHT * rng.uniform(0.3, 0.5) + grain, dtype=np.float32)
