"""Operations of torchvision's policies and random erasing for batches, each image with its own parameters.

torchvision applies one set of parameters to all images that it gets, and copies them to the device one by one. Here,
the images of a batch are grouped by operation. On a CPU, the pixels are those of torchvision.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample
from torchvision.transforms.v2 import functional

from pipeline.images.augmentation import Operation

_Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def apply_operations(pixels: Tensor, operations: Sequence[Sequence[Operation]], fill: Tensor) -> Tensor:
    """Apply the operations of each image, in their order.

    Args:
        pixels: (batch, 3, height, width) uint8. It is changed in place.
        operations: Those of each image.
        fill: Color (3,) uint8, on the same device, of pixels that an operation leaves empty.

    Returns:
        The pixels.
    """
    height, width = pixels.shape[-2:]
    for turn in range(max(map(len, operations))):
        groups: dict[str, list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
        for row, found in enumerate(operations):
            if turn < len(found) and found[turn].name != "Identity":
                name, values = found[turn]
                groups[name].append((row, _PARAMETERS.get(name, _as_they_are)(values, height, width)))
        for name, members in groups.items():
            rows = _copied([row for row, _ in members], torch.int64, pixels.device)
            numbers = _copied([values for _, values in members], torch.float32, pixels.device)
            pixels[rows] = _KERNELS[name](pixels[rows], numbers[..., None, None, None], fill.view(3, 1, 1))
    return pixels


def _copied(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers on the device, without waiting for it."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


# Numbers are computed on the host, in double precision, as torchvision does.


def _as_they_are(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del height, width
    return values


def _shear_x(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del width
    return 1.0, values[0], values[0] * height / 2, 0.0, 1.0, 0.0


def _shear_y(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del height
    return 1.0, 0.0, 0.0, values[0], 1.0, values[0] * width / 2


def _translate_x(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del height, width
    return 1.0, 0.0, -float(int(values[0])), 0.0, 1.0, 0.0


def _translate_y(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del height, width
    return 1.0, 0.0, 0.0, 0.0, 1.0, -float(int(values[0]))


def _rotate(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del height, width
    angle = math.radians(values[0])
    return math.cos(angle), -math.sin(angle), 0.0, math.sin(angle), math.cos(angle), 0.0


def _blend_weights(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    """Return the weights of the image and of what it is blended with."""
    del height, width
    return 1.0 + values[0], 1.0 - (1.0 + values[0])


def _mask(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del height, width
    bits = int(values[0])
    return (float(((1 << bits) - 1) << (8 - bits)),)


def _threshold(values: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    del height, width
    return (255 * values[0],)


_PARAMETERS: dict[str, Callable[[tuple[float, ...], int, int], tuple[float, ...]]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _blend_weights,
    "Color": _blend_weights,
    "Contrast": _blend_weights,
    "Sharpness": _blend_weights,
    "Posterize": _mask,
    "Solarize": _threshold,
}


# Kernels: pixels (n, 3, height, width) uint8, values (n, numbers, 1, 1, 1) fp32, fill (3, 1, 1) uint8 -> pixels.


def _warp(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    """Resample at places that an affine map (two rows of three numbers) gives, with coordinates from the center."""
    height, width = pixels.shape[-2:]
    places = torch.ones(height, width, 3, device=pixels.device)
    places[..., 0] = torch.linspace((1 - width) / 2, (width - 1) / 2, width, device=pixels.device)
    places[..., 1] = torch.linspace((1 - height) / 2, (height - 1) / 2, height, device=pixels.device)[:, None]
    maps = values.view(-1, 2, 3).mT.clone()
    maps[..., 0] /= width / 2
    maps[..., 1] /= height / 2
    # A product of matrices, as in torchvision, so that a CPU rounds in the same way.
    grid = places.view(1, -1, 3).expand(len(pixels), -1, -1).bmm(maps).view(-1, height, width, 2)
    # The fourth channel is the part of a pixel that comes from inside the image.
    inside = pixels.new_ones(len(pixels), 1, height, width)
    sampled = grid_sample(torch.cat([pixels, inside], dim=1).float(), grid, align_corners=False)
    colors, inside = sampled[:, :3], sampled[:, 3:]
    return colors.sub_(fill).mul_(inside).add_(fill).round_().to(torch.uint8)


def _brightness(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del fill
    return (pixels * values[:, 0]).clamp_(0, 255).to(torch.uint8)


def _color(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del fill
    return _blend(pixels, _gray(pixels), values)


def _contrast(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del fill
    return _blend(pixels, _gray(pixels).mean(dim=(1, 2, 3), keepdim=True), values)


def _sharpness(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del fill
    if min(pixels.shape[-2:]) <= 2:
        return pixels
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=pixels.device)
    kernel[..., 1, 1] = 5 / 13
    sharp = pixels.float()
    inner = sharp[..., 1:-1, 1:-1]
    blurred = conv2d(sharp, kernel, groups=3).round_()
    inner.add_(blurred.sub_(inner).mul_(values[:, 1]))
    return sharp.clamp_(0, 255).to(torch.uint8)


def _posterize(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del fill
    return pixels & values[:, 0].to(torch.uint8)


def _solarize(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del fill
    return torch.where(pixels >= values[:, 0], pixels.bitwise_not(), pixels)


def _auto_contrast(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del values, fill
    result: Tensor = functional.autocontrast(pixels)
    return result


def _equalize(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del values, fill
    result: Tensor = functional.equalize(pixels)
    return result


def _invert(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    del values, fill
    return pixels.bitwise_not()


def _erase(pixels: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    """Fill a rectangle: top, left, height, width."""
    height, width = pixels.shape[-2:]
    top, left, tall, wide = values.unbind(1)
    y, x = torch.arange(height, device=pixels.device)[:, None], torch.arange(width, device=pixels.device)
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return torch.where(inside, fill, pixels)


def _gray(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.split(1, dim=1)
    gray: Tensor = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
    return gray


def _blend(pixels: Tensor, other: Tensor, values: Tensor) -> Tensor:
    return torch.addcmul(pixels * values[:, 0], other, values[:, 1]).clamp_(0, 255).to(torch.uint8)


_KERNELS: dict[str, _Kernel] = {
    **dict.fromkeys(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"), _warp),
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Erase": _erase,
}
