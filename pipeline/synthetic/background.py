"""The blurred background of an image: sky, soil, leaves, spots of light and other plants."""

from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.blossom import Blade, render_blossom, render_leaf
from pipeline.synthetic.plants import background_plant
from pipeline.synthetic.poses import Pose
from pipeline.synthetic.raster import Array, Color, blur, mix, noise, window
from pipeline.synthetic.textures import Light

_GREENS: tuple[Color, Color] = ((0.06, 0.14, 0.04), (0.48, 0.60, 0.26))


@dataclass(frozen=True)
class _Scene:
    """A kind of background with its probability."""

    probability: float
    colors: tuple[Color, Color] = _GREENS  # The background is a noise pattern between these two colors.
    leafy: bool = False  # whether it has leaves


_SCENES = {
    "foliage": _Scene(0.3, leafy=True),
    "bokeh": _Scene(0.16, leafy=True),
    "sky": _Scene(0.12, ((0.35, 0.55, 0.85), (0.85, 0.90, 0.96))),
    "soil": _Scene(0.12, ((0.20, 0.14, 0.10), (0.50, 0.40, 0.30))),
    "dark": _Scene(0.1, ((0.01, 0.02, 0.01), (0.10, 0.13, 0.08))),
    "lawn": _Scene(0.12, leafy=True),
    "plain": _Scene(0.08, ((0.35, 0.33, 0.30), (0.80, 0.78, 0.74))),
}


def render_background(version: int, size: int, rng: np.random.Generator) -> Array:
    """Return a canvas with the background. It does not depend on the species.

    Args:
        version: Version of the dataset.
        size: Rendered width and height in pixels, half of the canvas. The background is blurred, so this is enough.
        rng: Generator of the image.

    Returns:
        The canvas, (2 size, 2 size, 3), float32.
    """
    probabilities = [scene.probability for scene in _SCENES.values()]
    name = str(rng.choice(list(_SCENES), p=probabilities))
    canvas = _color_noise(name, size, rng)
    light = Light(angle=rng.uniform(-3.1, 0), harsh=0.4, tint=np.ones(3, dtype=np.float32))
    if _SCENES[name].leafy:
        for _ in range(int(rng.integers(6, 14))):
            _render_leaf(canvas, version, light, rng, grass=name == "lawn")
    if name == "bokeh" or rng.random() < 0.12:
        for _ in range(int(rng.integers(3, 12))):
            _render_spot_of_light(canvas, rng)
    if rng.random() < 0.2:
        _render_background_plants(canvas, version, light, rng)
        canvas = blur(canvas, size * 0.025)
    return blur(canvas, size * rng.uniform(0.004, 0.035), scale=2)


def _color_noise(name: str, size: int, rng: np.random.Generator) -> Array:
    shift = rng.normal(0, 0.03, 3)
    grain = noise(rng, cells=4, size=size) * 0.6 + noise(rng, cells=11, size=size) * 0.4
    if name == "soil":  # Add fine crumbs.
        grain = grain * 0.6 + noise(rng, cells=max(size // 4, 4), size=size) * 0.4
    low, high = _SCENES[name].colors
    return np.ascontiguousarray(mix(np.array(low) + shift, np.array(high) + shift, grain))


def _render_leaf(canvas: Array, version: int, light: Light, rng: np.random.Generator, *, grass: bool) -> None:
    size = canvas.shape[0]
    texture, light = background_plant(version, rng).leaf, light.dimmed(rng.uniform(0.5, 1.3))
    x, y, angle = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(-np.pi, np.pi)
    if grass:  # Blades are long and narrow and point upwards from below.
        y, angle = y + size * 0.4, rng.normal(-np.pi / 2, 0.3)
        length, width = size * rng.uniform(0.5, 1.1), size * 0.02
    else:
        length, width = size * rng.uniform(0.2, 0.6), size * rng.uniform(0.04, 0.12)
    blade = Blade(x=x, y=y, angle=angle, length=length, width=width, bend=rng.normal(0, 0.2))
    render_leaf(canvas, texture, blade, light)


def _render_spot_of_light(canvas: Array, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    x, y, radius = rng.uniform(0, size), rng.uniform(0, size), size * rng.uniform(0.03, 0.13)
    part, dx, dy = window(canvas, x, y, reach=radius)
    part += np.clip(radius - np.hypot(dx, dy), 0, 1)[..., None] * rng.uniform(0.05, 0.35, 3)


def _render_background_plants(canvas: Array, version: int, light: Light, rng: np.random.Generator) -> None:
    """Render blossoms of another plant. They are small because they are far away."""
    size, plant = canvas.shape[0], background_plant(version, rng)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, size, 2)
        radius, tilt = size * rng.uniform(0.08, 0.2), rng.uniform(0, 0.8)
        lean, turn = rng.uniform(0, 6, 2)
        render_blossom(canvas, plant, Pose(x, y, radius, tilt, lean, turn), light, rng)
