"""Weights that resize many crops at once, each with its own size, to the pixels of torch's uint8 kernels.

torch resizes uint8 images in two passes, horizontal and then vertical. Both use weights that are rounded to 16-bit
integers, and both round their result to uint8. Here each pass is one matrix product per image with the same integers.
Its sums stay below 2**24 unless a side is shrunk more than about four times, so fp32 adds them without error, in any
order: every device gets the pixels of the CPU. With stronger shrinking, or with TF32, a pixel can differ by one level.
"""

import math

import torch
from torch import Tensor

_TAPS = {"nearest-exact": 1, "bilinear": 2, "bicubic": 4}  # width of the filter in source pixels, without shrinking
_MAX_WEIGHT = 2**15 - 0.5  # weights that would be rounded above this do not fit into 16 bits
_MAX_BITS = 22  # torch's limit for the fractional bits of a weight


def resampling_weights(
    lengths: Tensor, flip: Tensor, outputs: int, *, longest: int, mode: str
) -> tuple[Tensor, Tensor]:
    """Return one matrix per image that resizes one side from `lengths` pixels to `outputs` pixels.

    Args:
        lengths: Source pixels of each image (batch,), int64.
        flip: Whether the result of each image is mirrored (batch,), bool.
        outputs: Pixels of the result.
        longest: The largest of the lengths. It is an argument because reading it would wait for the device.
        mode: Filter, as for `torch.nn.functional.interpolate`, with antialiasing.

    Returns:
        Integer weights (batch, outputs, longest) fp32, and the factor (batch,) fp32 that scales their sums to 1.
    """
    device = lengths.device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # torch computes weights in fp64; MPS has none
    number = torch.arange(outputs, device=device)
    number = torch.where(flip[:, None], outputs - 1 - number, number)
    if mode == "nearest-exact":
        places = ((number + 0.5) * (lengths / outputs)[:, None]).long().clamp(max=longest - 1)[..., None]
        weights, factors = torch.ones_like(places, dtype=dtype), torch.ones_like(lengths, dtype=dtype)
    else:
        places, weights = _antialiased(lengths.to(dtype), number, outputs, longest=longest, mode=mode)
        largest = weights.flatten(1).amax(1)
        bits = ((_MAX_WEIGHT / largest).log2().ceil() - 1).clamp(max=_MAX_BITS)
        weights = weights * 2 ** bits[:, None, None]
        weights, factors = weights.sign() * (weights.abs() + 0.5).floor(), 2**-bits
    # Places outside the crop have weight 0. They go to an extra column, or they would overwrite others.
    places = torch.where(weights != 0, places, longest)
    matrix = torch.zeros(len(lengths), outputs, longest + 1, device=device)
    return matrix.scatter_(2, places, weights.float())[..., :longest], factors.float()


def resize_rows(rows: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Resize the last side of uint8 values (batch, n, length), and round the result to whole levels.

    Args:
        rows: Values of 0 to 255 (batch, n, length), fp32.
        weights: The result of `resampling_weights`.

    Returns:
        (batch, n, outputs) fp32.
    """
    matrix, factors = weights
    return _to_levels(rows @ matrix.mT, factors)


def resize_columns(columns: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Resize the second side of (batch, length, n) as `resize_rows` does the last one."""
    matrix, factors = weights
    return _to_levels(matrix @ columns, factors)


def _to_levels(sums: Tensor, factors: Tensor) -> Tensor:
    return sums.mul_(factors[:, None, None]).add_(0.5).floor_().clamp_(0, 255)


def _antialiased(lengths: Tensor, number: Tensor, outputs: int, *, longest: int, mode: str) -> tuple[Tensor, Tensor]:
    """Return source pixels and their weights (batch, outputs, taps). The weights of a result pixel have the sum 1."""
    scale = lengths / outputs
    stretch = scale.clamp(min=1)  # antialiasing: the filter covers all source pixels of a result pixel
    center = (number + 0.5) * scale[:, None]
    reach = _TAPS[mode] / 2 * stretch[:, None]
    first = (center - reach + 0.5).long().clamp(min=0)
    taps = 2 * math.ceil(_TAPS[mode] / 2 * max(1.0, longest / outputs)) + 1
    places = first[..., None] + torch.arange(taps, device=lengths.device)
    last = torch.minimum((center + reach + 0.5).long(), lengths[:, None].long())
    distance = (places - center[..., None] + 0.5).abs() / stretch[:, None, None]
    weights = (_triangle if mode == "bilinear" else _cubic)(distance) * (places < last[..., None])
    return places, weights / weights.sum(-1, keepdim=True)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Return the cubic filter with a = -0.5, as torch and Pillow use it with antialiasing."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
