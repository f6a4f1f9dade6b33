"""Renders one blossom: its layers of petals from the outside to the inside, and its center. Renders leaves too.

A blossom lies in a tilted plane whose unit is the petal length. Each pixel is transformed into this plane, and then
into the coordinates of each petal that can cover it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.synthetic.plants import Plant
from pipeline.synthetic.poses import Pose
from pipeline.synthetic.raster import Array, window
from pipeline.synthetic.textures import CENTER_REACH, Light, blend, center_texel, petal_texel, slope_along, visible

_SEPALS = -1  # Number of the sepal layer. The petal layers have numbers from 0, from the outside to the inside.
_SEPAL_WIDTH = 0.22  # Half width, in sepal lengths.


@dataclass(frozen=True)
class _Plane:
    """The positions of pixels in the plane of the blossom, (pixels,) each, in petal lengths and radians."""

    u: Array
    v: Array
    angle: Array
    squared: Array  # squared distance from the middle


@dataclass(frozen=True)
class _Layer:
    """One ring of petals with small differences between them. Arrays are float32 and have one value per petal."""

    texture: Array
    petals: int  # number of petals
    first: float  # direction of the first petal, radians
    reach: float  # largest distance from the middle, in petal lengths
    along: Array  # (2, petals): weights of u and v for the distance from the base, in petal lengths
    across: Array  # (2, petals): weights of u and v for the distance from the axis, in half widths
    curl: float
    facing: Array  # (2, petals): cosine and sine of the angle between petal and light
    brightness: Array  # (petals,)


def render_blossom(canvas: Array, plant: Plant, pose: Pose, light: Light, rng: np.random.Generator) -> None:
    """Render a blossom on the canvas, in place.

    Args:
        canvas: (height, width, 3), float32.
        plant: Plant of the blossom.
        pose: Position and direction of the blossom.
        light: Light that falls on it.
        rng: Generator of the image. All petals differ a little.
    """
    part, dx, dy = window(canvas, pose.x, pose.y, reach=pose.radius * 1.4)
    if not part.size:
        return
    a, b = _untilt(dx, dy, pose, cup=plant.form.cup)
    inside = np.flatnonzero((a * a + b * b).ravel() < 1.5**2)
    a, b = a.take(inside), b.take(inside)
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    u, v = a * cos + b * sin, b * cos - a * sin
    plane = _Plane(u, v, angle=np.arctan2(v, u), squared=u * u + v * v)
    turned = replace(light, angle=light.angle - pose.lean - pose.turn)

    pixels = part.reshape(-1, 3)
    rgb = pixels.take(inside, axis=0)
    for number in range(_SEPALS if plant.habit.sepals else 0, plant.form.layers):
        _render_layer(rgb, plane, _sample_layer(plant, number, turned, rng), turned)
    _render_center(rgb, plane, plant, turned)
    pixels[inside] = rgb
    part[...] = pixels.reshape(part.shape)


def _untilt(dx: Array, dy: Array, pose: Pose, *, cup: float) -> tuple[Array, Array]:
    """Return the pixel positions in the plane of the blossom: along the direction of its lean, and across it."""
    cos, sin = math.cos(pose.lean) / pose.radius, math.sin(pose.lean) / pose.radius
    flat, across = (dx * cos + dy * sin) / math.cos(pose.tilt), dy * cos - dx * sin
    # Petals of a cup rise from the plane. If it is tilted, the far petals look longer and the near petals shorter.
    rise = max(-0.35, min(0.35, cup * math.tan(pose.tilt)))
    along = flat
    for _ in range(2):  # The rise depends on the unknown position. Two iterations are accurate enough.
        along = flat - rise * np.minimum(along * along + across * across, 1.3)
    return along, across


def _sample_layer(plant: Plant, number: int, light: Light, rng: np.random.Generator) -> _Layer:
    """Return a layer of petals whose directions and sizes are sampled."""
    form = plant.form
    if number == _SEPALS:
        texture, scale, half_width = plant.leaf, plant.habit.sepals, _SEPAL_WIDTH
    else:
        texture, scale, half_width = plant.inner if number else plant.petal, form.shrink**number, form.width
    n = form.petals
    step = 2 * np.pi / n
    first = np.pi / 2 + step * 0.5 * (number % 2)  # Every second layer is rotated by half a step.

    axis = first + step * np.arange(n) + rng.normal(0, 0.07 * step, n)
    length = scale * (1 + rng.normal(0, 0.05, n)) * (1 + form.lobed * np.sin(axis))
    width = length * half_width * (1 + rng.normal(0, 0.06, n))
    cos, sin = np.cos(axis), np.sin(axis)
    facing = np.stack([np.cos(light.angle - axis), np.sin(light.angle - axis)]).astype(np.float32)
    turned_up = light.harsh * 0.5 * form.cup * -facing[0]  # The far wall of a bowl faces the light.
    brightness = 1 + turned_up + rng.normal(0, 0.035, n) - 0.03 * number
    return _Layer(
        texture=texture,
        petals=n,
        first=first,
        reach=1.25 * scale * (1 + form.lobed),
        along=np.stack([cos / length, sin / length]).astype(np.float32),
        across=np.stack([-sin / width, cos / width]).astype(np.float32),
        curl=float(form.curl * length.mean() / width.mean()),
        facing=facing,
        brightness=brightness.astype(np.float32),
    )


def _render_layer(rgb: Array, plane: _Plane, layer: _Layer, light: Light) -> None:
    """Render a layer of petals over the pixels `rgb` (pixels, 3) of the plane, in place."""
    near = np.flatnonzero(plane.squared < layer.reach**2)
    u, v, angle = plane.u.take(near), plane.v.take(near), plane.angle.take(near)
    before = np.floor((angle - layer.first) / (2 * np.pi / layer.petals)).astype(np.int32)
    # Each pixel lies between the axes of two petals. Each petal covers one neighbor and is covered by the other.
    for petal in (before % layer.petals, (before + 1) % layer.petals):
        along = u * layer.along[0].take(petal) + v * layer.along[1].take(petal)
        across = u * layer.across[0].take(petal) + v * layer.across[1].take(petal) - layer.curl * along * along
        texel = petal_texel(along, across)
        at = visible(layer.texture, texel)
        texels, owner = layer.texture.take(texel[at], axis=0), petal[at]
        slope = slope_along(texels, layer.facing[0].take(owner), layer.facing[1].take(owner))
        shade = layer.brightness.take(owner) - light.harsh * slope
        blend(rgb, near[at], texels, shade=shade, tint=light.tint)


def _render_center(rgb: Array, plane: _Plane, plant: Plant, light: Light) -> None:
    reach = plant.center_radius * CENTER_REACH
    at = np.flatnonzero((np.abs(plane.u) < reach) & (np.abs(plane.v) < reach))
    texels = plant.center.take(center_texel(plane.u[at] / reach, plane.v[at] / reach), axis=0)
    slope = slope_along(texels, math.cos(light.angle), math.sin(light.angle))
    blend(rgb, at, texels, shade=1 - light.harsh * 0.8 * slope, tint=light.tint)


@dataclass(frozen=True, kw_only=True)
class Blade:
    """The position of a leaf, in pixels of the canvas and radians."""

    x: float  # position of the base
    y: float
    angle: float  # direction of the tip
    length: float
    width: float  # half width
    bend: float  # sideways shift of the tip, in lengths


def render_leaf(canvas: Array, texture: Array, blade: Blade, light: Light) -> None:
    """Render a leaf on the canvas, in place.

    Args:
        canvas: (height, width, 3), float32.
        texture: Leaf texture of a `Plant`.
        blade: Position of the leaf.
        light: Light that falls on it.
    """
    length, width = blade.length, blade.width
    cos, sin = math.cos(blade.angle), math.sin(blade.angle)
    middle = blade.x + 0.5 * length * cos, blade.y + 0.5 * length * sin
    part, dx, dy = window(canvas, *middle, reach=length * 0.6 + width)
    if not part.size:
        return
    along = ((dx * cos + dy * sin) / length).ravel() + 0.5
    across = (dy * cos - dx * sin).ravel() / width - blade.bend * along * along * length / width
    texel = petal_texel(along, across)
    at = visible(texture, texel)
    texels = texture.take(texel[at], axis=0)
    from_light = light.angle - blade.angle
    slope = slope_along(texels, math.cos(from_light), math.sin(from_light))
    rgb = part.reshape(-1, 3)
    blend(rgb, at, texels, shade=1 - light.harsh * slope, tint=light.tint)
    part[...] = rgb.reshape(part.shape)
