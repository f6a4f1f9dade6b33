"""How the blossoms of a plant are held before the camera: one, a few, an umbel or a spike of them."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.plants import Plant
from pipeline.synthetic.raster import GOLDEN_ANGLE, Array

_ALL_ROUND = 6.3  # radians: directions are drawn from a full turn (and a little, which does not matter)
_MOST_TILT = 1.05  # radians: a blossom seen from further aside is a mere line


@dataclass(frozen=True)
class Pose:
    """How one blossom is held before the camera: pixels of the canvas, radians."""

    x: float
    y: float
    radius: float
    tilt: float  # 0 looks into the camera
    lean: float  # direction of the tilt
    turn: float


@dataclass(frozen=True)
class _Arrangement:
    """The blossoms of a plant in the order of drawing, (n,) each: radii of the plant from its middle, radians."""

    x: Array
    y: Array
    radius: Array
    tilt: Array
    lean: Array


def poses(plant: Plant, size: int, rng: np.random.Generator) -> list[Pose]:
    """Return how the blossoms of the plant shown are held, in the order of drawing.

    Args:
        plant: Its species.
        size: Pixels of the canvas, width and height.
        rng: The generator of the picture.
    """
    x, y = size * (0.5 + rng.normal(0, 0.1, 2))
    radius = size * rng.uniform(0.23, 0.46)
    tilt, lean = abs(rng.normal(0, 0.5)), rng.uniform(0, _ALL_ROUND)
    n = plant.habit.blossoms
    held = _Arrangement(np.zeros(n), np.zeros(n), np.ones(n), np.full(n, tilt), np.full(n, lean))  # a single one
    match plant.habit.kind:
        case "few":
            held = _few(n, tilt, lean, rng)
        case "umbel":
            held = _umbel(n, tilt, lean)
        case "spike":
            held = _spike(n, rng)
    columns = [
        x + radius * held.x,
        y + radius * held.y,
        radius * held.radius,
        np.minimum(held.tilt, _MOST_TILT),
        held.lean,
        _turns(plant, held.lean, rng),
    ]
    return [Pose(*row) for row in np.stack(columns, axis=1).tolist()]


def neighbour_pose(plant: Plant, size: int, rng: np.random.Generator) -> Pose:
    """Return how a further blossom of the species is held, somewhere on a canvas of `size` pixels."""
    x, y = rng.uniform(-0.05, 1.05, 2) * size
    turn = _turns(plant, np.zeros(1), rng).item()
    share = 1.0 if plant.habit.kind == "single" else 0.55  # one of many is small
    radius = share * size * rng.uniform(0.14, 0.32)
    return Pose(x, y, radius, tilt=abs(rng.normal(0, 0.6)) % _MOST_TILT, lean=0.0, turn=turn)


def _turns(plant: Plant, lean: Array, rng: np.random.Generator) -> Array:
    if plant.form.lobed:  # a face is held upright
        return rng.normal(0, 0.3, lean.shape) - lean
    return rng.uniform(0, _ALL_ROUND, lean.shape)


def _few(n: int, tilt: float, lean: float, rng: np.random.Generator) -> _Arrangement:
    """Blossoms around the middle that look outwards."""
    leans = lean + np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.25, n)
    tilts = tilt + abs(rng.normal(0, 0.2, n))
    far, radius = rng.uniform(0.55, 0.85, n), rng.uniform(0.5, 0.68, n)
    return _Arrangement(far * np.cos(leans), far * np.sin(leans), radius, tilts, leans)


def _umbel(n: int, tilt: float, lean: float) -> _Arrangement:
    """A dome of florets, the outer ones first."""
    number = np.arange(n)[::-1]
    leans, far = lean + number * GOLDEN_ANGLE, np.sqrt((number + 0.3) / n)
    y = far * np.sin(leans) * math.cos(min(tilt, 0.9))
    return _Arrangement(far * np.cos(leans), y, np.full(n, 1.25 / math.sqrt(n)), 0.9 * far, leans)


def _spike(n: int, rng: np.random.Generator) -> _Arrangement:
    """Blossoms along a stem from its top down, left and right in turn, the lower ones larger."""
    y = np.linspace(-1.2, 1.2, n)
    side = np.where(np.arange(n) % 2, 0.22, -0.22) * rng.uniform(0.7, 1.2, n)
    x = side + rng.normal(0, 0.2) * y  # the stem stands askew
    return _Arrangement(x, y, 0.4 + 0.1 * y, rng.uniform(0.5, 0.8, n), np.pi * (side < 0))
