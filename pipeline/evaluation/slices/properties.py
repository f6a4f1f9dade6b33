"""`ImageProperties`: size, file type and brightness of the images of a split. NumPy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageProperties:
    """Properties of the images of a split, in the order of its rows; each array has the shape (images,).

    Attributes:
        width: Width in pixels of the upright image.
        height: Height in pixels of the upright image.
        format: Format of the file, such as `JPEG`.
        brightness: Mean luma, from 0 (black) to 1 (white).
    """

    width: NDArray[np.int32]
    height: NDArray[np.int32]
    format: NDArray[np.str_]
    brightness: NDArray[np.float32]
