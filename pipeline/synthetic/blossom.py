"""Draws one blossom: its layers of petals from the outside in, and its heart.

The blossom lies in a plane of its own, in petal lengths, that is tilted before the camera. Each of its pixels
is taken back into that plane, and there into the frame of each petal that may cover it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.synthetic.plants import Plant
from pipeline.synthetic.posture import Pose
from pipeline.synthetic.raster import Array, window
from pipeline.synthetic.sheets import HEART_REACH, Light, heart_texel, lay, petal_texel, slope_along, visible

_SEPALS = -1  # the number of their layer; those of petals are numbered from 0, from the outside in
_SEPAL_WIDTH = 0.22  # half width, in lengths


@dataclass(frozen=True)
class _Plane:
    """Where pixels lie in the plane of the blossom, (pixels,) each: petal lengths, radians."""

    u: Array
    v: Array
    angle: Array
    square: Array  # of the distance from the middle


@dataclass(frozen=True)
class _Layer:
    """One ring of petals, each a little different; arrays are float32 and hold one figure per petal."""

    sheet: Array
    number: int  # of petals
    first: float  # radians, where the first one points
    reach: float  # nothing of the layer lies further out
    along: Array  # (2, petals): u and v times these add up to petal lengths from the base
    across: Array  # (2, petals): the same for half widths from the axis
    curl: float
    facing: Array  # (2, petals): cosine and sine of the angle between petal and light
    brightness: Array  # (petals,)


def draw_blossom(canvas: Array, plant: Plant, pose: Pose, light: Light, rng: np.random.Generator) -> None:
    """Draw a blossom on the canvas, in place.

    Args:
        canvas: (height, width, 3), float32.
        plant: Its species.
        pose: How it is held.
        light: What falls on it.
        rng: The generator of the picture: no two petals are quite alike.
    """
    part, dx, dy = window(canvas, pose.x, pose.y, reach=pose.radius * 1.4)
    if not part.size:
        return
    a, b = _untilt(dx, dy, pose, cup=plant.form.cup)
    inside = np.flatnonzero((a * a + b * b).ravel() < 1.5**2)
    a, b = a.take(inside), b.take(inside)
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    u, v = a * cos + b * sin, b * cos - a * sin
    plane = _Plane(u, v, angle=np.arctan2(v, u), square=u * u + v * v)
    turned = replace(light, angle=light.angle - pose.lean - pose.turn)

    pixels = part.reshape(-1, 3)
    rgb = pixels.take(inside, axis=0)
    for number in range(_SEPALS if plant.habit.sepals else 0, plant.form.layers):
        _draw_layer(rgb, plane, _grow_layer(plant, number, turned, rng), turned)
    _draw_heart(rgb, plane, plant, turned)
    pixels[inside] = rgb
    part[...] = pixels.reshape(part.shape)


def _untilt(dx: Array, dy: Array, pose: Pose, *, cup: float) -> tuple[Array, Array]:
    """Return where pixels lie in the plane of the blossom: along the direction of its lean, and across."""
    cos, sin = math.cos(pose.lean) / pose.radius, math.sin(pose.lean) / pose.radius
    far, across = (dx * cos + dy * sin) / math.cos(pose.tilt), dy * cos - dx * sin
    # Petals of a cup rise from the plane: seen askew, the far ones look longer and the near ones shorter.
    rise = max(-0.35, min(0.35, cup * math.tan(pose.tilt)))
    along = far
    for _ in range(2):  # the rise depends on the place that is looked for: two rounds come close enough
        along = far - rise * np.minimum(along * along + across * across, 1.3)
    return along, across


def _grow_layer(plant: Plant, number: int, light: Light, rng: np.random.Generator) -> _Layer:
    form = plant.form
    if number == _SEPALS:
        sheet, scale, half_width = plant.leaf, plant.habit.sepals, _SEPAL_WIDTH
    else:
        sheet, scale, half_width = plant.inner if number else plant.petal, form.shrink**number, form.width
    n = form.petals
    step = 2 * np.pi / n
    first = np.pi / 2 + step * 0.5 * (number % 2)  # every other layer is half a step aside

    axis = first + step * np.arange(n) + rng.normal(0, 0.07 * step, n)
    length = scale * (1 + rng.normal(0, 0.05, n)) * (1 + form.lobed * np.sin(axis))
    width = length * half_width * (1 + rng.normal(0, 0.06, n))
    cos, sin = np.cos(axis), np.sin(axis)
    facing = np.stack([np.cos(light.angle - axis), np.sin(light.angle - axis)]).astype(np.float32)
    turned_up = light.harsh * 0.5 * form.cup * -facing[0]  # the far wall of a bowl faces the light
    brightness = 1 + turned_up + rng.normal(0, 0.035, n) - 0.03 * number
    return _Layer(
        sheet=sheet,
        number=n,
        first=first,
        reach=1.25 * scale * (1 + form.lobed),
        along=np.stack([cos / length, sin / length]).astype(np.float32),
        across=np.stack([-sin / width, cos / width]).astype(np.float32),
        curl=float(form.curl * length.mean() / width.mean()),
        facing=facing,
        brightness=brightness.astype(np.float32),
    )


def _draw_layer(rgb: Array, plane: _Plane, layer: _Layer, light: Light) -> None:
    """Draw a layer of petals over the pixels `rgb` (pixels, 3) of the plane, in place."""
    near = np.flatnonzero(plane.square < layer.reach**2)
    u, v, angle = plane.u.take(near), plane.v.take(near), plane.angle.take(near)
    before = np.floor((angle - layer.first) / (2 * np.pi / layer.number)).astype(np.int32)
    # A pixel is between the axes of two petals. Every petal lies over one neighbour and under the other.
    for petal in (before % layer.number, (before + 1) % layer.number):
        along = u * layer.along[0].take(petal) + v * layer.along[1].take(petal)
        across = u * layer.across[0].take(petal) + v * layer.across[1].take(petal) - layer.curl * along * along
        texel = petal_texel(along, across)
        at = visible(layer.sheet, texel)
        texels, owner = layer.sheet.take(texel[at], axis=0), petal[at]
        slope = slope_along(texels, layer.facing[0].take(owner), layer.facing[1].take(owner))
        shade = layer.brightness.take(owner) - light.harsh * slope
        lay(rgb, near[at], texels, shade=shade, tint=light.tint)


def _draw_heart(rgb: Array, plane: _Plane, plant: Plant, light: Light) -> None:
    reach = plant.heart_radius * HEART_REACH
    at = np.flatnonzero((np.abs(plane.u) < reach) & (np.abs(plane.v) < reach))
    texels = plant.heart.take(heart_texel(plane.u[at] / reach, plane.v[at] / reach), axis=0)
    slope = slope_along(texels, math.cos(light.angle), math.sin(light.angle))
    lay(rgb, at, texels, shade=1 - light.harsh * 0.8 * slope, tint=light.tint)


@dataclass(frozen=True, kw_only=True)
class Blade:
    """Where a leaf lies: pixels of the canvas, radians."""

    x: float  # its base
    y: float
    angle: float  # where its tip points
    length: float
    width: float  # half width
    bend: float  # how far the tip swings aside, in lengths


def draw_leaf(canvas: Array, sheet: Array, blade: Blade, light: Light) -> None:
    """Draw a leaf on the canvas, in place.

    Args:
        canvas: (height, width, 3), float32.
        sheet: The leaf of a `Plant`.
        blade: Where it lies.
        light: What falls on it.
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
    at = visible(sheet, texel)
    texels = sheet.take(texel[at], axis=0)
    from_light = light.angle - blade.angle
    slope = slope_along(texels, math.cos(from_light), math.sin(from_light))
    rgb = part.reshape(-1, 3)
    lay(rgb, at, texels, shade=1 - light.harsh * slope, tint=light.tint)
    part[...] = rgb.reshape(part.shape)
