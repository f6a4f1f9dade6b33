"""Measures size, file type and brightness of the scored images while they are decoded for the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from pipeline.images.decode import image_format
from pipeline.images.transforms import Batch, EvalTransform, collate

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue look
_SMALL_SIDE = 16  # the brightness is the mean of a reduced copy


class MeasuringTransform(EvalTransform):
    """The evaluation transform, which also returns `properties` (the fields of `ImageProperties`) of each image."""

    def __call__(self, batch: Batch) -> Batch:
        """Transform the columns `image` and `index`, and `label` if it exists; see `EvalTransform`."""
        self._measured: list[tuple[Any, ...]] = []
        transformed = super().__call__(batch)
        return transformed | {"properties": self._measured}

    def _open(self, row: dict[str, Any], index: int, *, min_side: int | None = None) -> Image:
        image = super()._open(row, index, min_side=min_side)
        self._measured.append((*image.size, image_format(row), mean_brightness(image)))
        return image


def mean_brightness(image: Image) -> float:
    """Return the mean luma of an RGB image, from 0 (black) to 1 (white)."""
    small = image.reduce(max(1, min(image.size) // _SMALL_SIDE))
    return float(np.asarray(small, dtype=np.float64).mean(axis=(0, 1)) @ _LUMA / 255)


def collate_measured(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack rows of `MeasuringTransform` into a batch, and list their `properties`."""
    return collate(rows) | {"properties": [row["properties"] for row in rows]}


def columns_of(batch: dict[str, Any]) -> tuple[NDArray[Any], ...]:
    """Return the fields of `ImageProperties` for a batch of `collate_measured`."""
    width, height, name, brightness = zip(*batch["properties"], strict=True)
    return (
        np.array(width, dtype=np.int32),
        np.array(height, dtype=np.int32),
        np.array(name, dtype=np.str_),
        np.array(brightness, dtype=np.float32),
    )
