"""What a camera makes of a canvas: light and shade, colour cast, contrast, grain, highlights."""

import math

import numpy as np

from pipeline.data.flowers.raster import Array, noise

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
