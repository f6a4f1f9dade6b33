"""Positions and directions of the blossoms of a plant: a single one, a few, an umbel or a spike."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.plants import Plant
from pipeline.synthetic.raster import GOLDEN_ANGLE, Array

_FULL_TURN = 6.3  # Upper limit of sampled directions in radians, a little more than a full turn.
_MAX_TILT = 1.05  # Radians. A blossom with a larger tilt would look like a line.


@dataclass(frozen=True)
class Pose:
    """The position and direction of one blossom, in pixels of the canvas and radians."""

    x: float
    y: float
    radius: float
    tilt: float  # 0: the blossom faces the camera
    lean: float  # direction of the tilt
    turn: float  # rotation in the plane of the blossom


@dataclass(frozen=True)
class _Arrangement:
    """The blossoms of a plant in rendering order, (n,) each.

    Positions and radii are relative to the middle and the radius of the plant. Angles are in radians.
    """

    x: Array
    y: Array
    radius: Array
    tilt: Array
    lean: Array


def poses(plant: Plant, size: int, rng: np.random.Generator) -> list[Pose]:
    """Return the poses of all blossoms of the main plant, in rendering order.

    Args:
        plant: The main plant.
        size: Width and height of the canvas in pixels.
        rng: Generator of the image.
    """
    x, y = size * (0.5 + rng.normal(0, 0.1, 2))
    radius = size * rng.uniform(0.23, 0.46)
    tilt, lean = abs(rng.normal(0, 0.5)), rng.uniform(0, _FULL_TURN)
    n = plant.habit.blossoms
    arrangement = _Arrangement(np.zeros(n), np.zeros(n), np.ones(n), np.full(n, tilt), np.full(n, lean))
    match plant.habit.kind:
        case "few":
            arrangement = _few(n, tilt, lean, rng)
        case "umbel":
            arrangement = _umbel(n, tilt, lean)
        case "spike":
            arrangement = _spike(n, rng)
    columns = [
        x + radius * arrangement.x,
        y + radius * arrangement.y,
        radius * arrangement.radius,
        np.minimum(arrangement.tilt, _MAX_TILT),
        arrangement.lean,
        _turns(plant, arrangement.lean, rng),
    ]
    return [Pose(*row) for row in np.stack(columns, axis=1).tolist()]


def neighbor_pose(plant: Plant, size: int, rng: np.random.Generator) -> Pose:
    """Return a random pose for another blossom of the species on a canvas of `size` pixels."""
    x, y = rng.uniform(-0.05, 1.05, 2) * size
    turn = _turns(plant, np.zeros(1), rng).item()
    scale = 1.0 if plant.habit.kind == "single" else 0.55  # Plants with several blossoms have smaller ones.
    radius = scale * size * rng.uniform(0.14, 0.32)
    return Pose(x, y, radius, tilt=abs(rng.normal(0, 0.6)) % _MAX_TILT, lean=0.0, turn=turn)


def _turns(plant: Plant, lean: Array, rng: np.random.Generator) -> Array:
    if plant.form.lobed:  # A blossom without radial symmetry is upright.
        return rng.normal(0, 0.3, lean.shape) - lean
    return rng.uniform(0, _FULL_TURN, lean.shape)


def _few(n: int, tilt: float, lean: float, rng: np.random.Generator) -> _Arrangement:
    """Return blossoms around the middle that face outwards."""
    leans = lean + np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.25, n)
    tilts = tilt + abs(rng.normal(0, 0.2, n))
    distance, radius = rng.uniform(0.55, 0.85, n), rng.uniform(0.5, 0.68, n)
    return _Arrangement(distance * np.cos(leans), distance * np.sin(leans), radius, tilts, leans)


def _umbel(n: int, tilt: float, lean: float) -> _Arrangement:
    """Return a dome of florets, from the outside to the inside."""
    number = np.arange(n)[::-1]
    leans, distance = lean + number * GOLDEN_ANGLE, np.sqrt((number + 0.3) / n)
    y = distance * np.sin(leans) * math.cos(min(tilt, 0.9))
    return _Arrangement(distance * np.cos(leans), y, np.full(n, 1.25 / math.sqrt(n)), 0.9 * distance, leans)


def _spike(n: int, rng: np.random.Generator) -> _Arrangement:
    """Return blossoms along a stem from top to bottom, alternating left and right. Lower ones are larger."""
    y = np.linspace(-1.2, 1.2, n)
    side = np.where(np.arange(n) % 2, 0.22, -0.22) * rng.uniform(0.7, 1.2, n)
    x = side + rng.normal(0, 0.2) * y  # The stem is not exactly vertical.
    return _Arrangement(x, y, 0.4 + 0.1 * y, rng.uniform(0.5, 0.8, n), np.pi * (side < 0))
