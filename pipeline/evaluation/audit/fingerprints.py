"""Fingerprints of images: a perceptual hash that survives resizing and compression, and a digest of the pixels."""

from typing import Any

import numpy as np
import PIL.Image
import scipy.fft
import xxhash
from numpy.typing import NDArray
from PIL.Image import Image

_SIDE = 32  # pixels of the reduced image
_FREQUENCIES = 8  # lowest frequencies in each direction; 64 bits
_FLAT = 1.0  # mean amplitude, in gray levels, below which an image has no structure to compare

FLAT = 0
"""The perceptual hash of an image without structure, such as one color."""


def perceptual_hash(image: Image) -> int:
    """Return 64 bits that hardly change when an image is resized or compressed (pHash).

    They say which of the lowest frequencies of the discrete cosine transform are above their median.

    Args:
        image: RGB, of any size.
    """
    gray = image.convert("L").resize((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
    spectrum: Any = scipy.fft.dctn(np.asarray(gray, dtype=np.float64), norm="ortho")
    lowest = spectrum[:_FREQUENCIES, :_FREQUENCIES].ravel()
    lowest[0] = 0.0  # the brightness
    if np.abs(lowest).mean() < _FLAT:
        return FLAT
    bits = np.packbits(lowest > np.median(lowest[1:]))
    return int.from_bytes(bits.tobytes(), "big") or 1


def distances(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the number of bits in which hashes differ, shape (hashes, others)."""
    return np.asarray(np.bitwise_count(hashes[:, None] ^ others[None, :]))


def pixel_digest(image: Image) -> str:
    """Return a hash of the size and the pixels of an RGB image."""
    digest = xxhash.xxh3_128(f"{image.size} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
