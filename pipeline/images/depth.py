"""Bit depth of 16-bit grayscale images: how many of their bits a dataset uses, and how its values become 8 bits.

Scanners, cameras and microscopes write 10, 12 or 14 bits into 16-bit files, and most files do not say so. Scaled from
16 bits, such an image is almost black. The depth is therefore measured on the training images: the smallest number of
bits from 8 to 16 that holds their largest value. The rule has three consequences:

- The largest value of the training images ends in the upper half of the 8 bits, whatever the instrument.
- Values that are a little larger in other images still fit, which they would not if the largest value became 255.
- Images that use all 16 bits keep their upper 8 bits, and a file with 8-bit values looks like an 8-bit file.

The number is stored with the image processor, so a saved model scales new images as it scaled the training images.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

KEY = "grayscale_bits"
"""Name of the number in preprocessor_config.json, and of the attribute of the image processor."""
_BITS = range(8, 17)
_DARK = (
    16  # An image is dark if its largest value is below this fraction (1/16) of the range: 4 bits or more are unused.
)


class GrayscaleDepth:
    """The number of bits that 16-bit grayscale images use, and their scaling to 8 bits.

    It warns once about an image that does not fit the number.

    Attributes:
        bits: 8 to 16. Larger values are clipped.
    """

    def __init__(self, bits: int | None = None) -> None:
        """Set the number of bits. None: unknown, so 16 bits are assumed, with a warning about dark images."""
        self.bits = 16 if bits is None else bits
        self._is_known, self._warned = bits is not None, False

    @classmethod
    def of(cls, processor: Any) -> "GrayscaleDepth":
        """Return the depth that is stored with an image processor.

        Raises:
            PipelineError: If it is not a number from 8 to 16.
        """
        bits = getattr(processor, KEY, None)
        if bits is not None and (not isinstance(bits, int) or bits not in _BITS):
            raise PipelineError(
                f'"{KEY}": {bits!r} in preprocessor_config.json is invalid: use 8 to 16, or remove the entry'
            )
        return cls(bits)

    @classmethod
    def holding(cls, maximum: int) -> "GrayscaleDepth":
        """Return the smallest depth that holds a value."""
        return cls(max(_BITS[0], maximum.bit_length()))

    @property
    def limit(self) -> int:
        """The largest value that is not clipped."""
        return int(2**self.bits - 1)

    def is_dark(self, maximum: int) -> bool:
        """Return whether an image with this largest value is almost black. An image without any light is not dark."""
        return 0 < maximum < (self.limit + 1) // _DARK

    def to_8_bits(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return grayscale values (height, width) from 0 to 65535 as uint8."""
        maximum = int(pixels.max())
        if not self._is_known and self.is_dark(maximum):
            self._warn(
                f"dark: a 16-bit grayscale image uses values up to {maximum} of {self.limit}, and the model does not "
                f'say how many bits its images have; train it again, or add "{KEY}": {self.holding(maximum).bits} to '
                "its preprocessor_config.json"
            )
        if maximum > self.limit:
            self._warn(
                f"clipping a 16-bit grayscale image with values up to {maximum} at {self.limit}, the range of the "
                "training images"
            )
            pixels = pixels.clip(max=self.limit)
        return (pixels >> (self.bits - 8)).astype(np.uint8)

    def _warn(self, text: str) -> None:
        if not self._warned:
            logger.warning("%s (shown for the first such image only)", text)
        self._warned = True


def set_depth(processor: Any, bits: int | None) -> None:
    """Store the measured number of bits with an image processor. None: there are no such images, so nothing changes."""
    if bits is not None:
        setattr(processor, KEY, bits)


FULL_DEPTH = GrayscaleDepth(16)
