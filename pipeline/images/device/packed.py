"""Images of different sizes in one flat buffer on a device, and batches of crops of them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.images.augmentation import AugmentationParams
from pipeline.images.device.resampling import resampling_weights, resize_columns, resize_rows
from pipeline.images.pixel_files import Pixels, as_tensor

# Source pixels of the crops that are resized at once, in bytes as uint8. A typical batch needs less. A batch with one
# very wide image, for which all others are padded, is divided.
_MAX_GATHERED = 2**27


class PackedImages:
    """uint8 images without padding, on a device.

    Attributes:
        heights: Height of each image in pixels.
        widths: Width of each image in pixels.
    """

    def __init__(self, images: list[Pixels], device: torch.device) -> None:
        """Copy the images to the device.

        Args:
            images: (height, width, 3) each. The list is emptied, so that the images are not stored twice for long.
            device: Where the buffer is.
        """
        self.heights = [image.shape[0] for image in images]
        self.widths = [image.shape[1] for image in images]
        sizes = [image.size for image in images]
        self.starts = np.cumsum([0, *sizes]).tolist()
        # A crop reads rows of the widest crop in its batch. The margin keeps reads inside the buffer.
        self.buffer = torch.zeros(self.starts[-1] + max(self.widths), dtype=torch.uint8, device=device)
        for start in reversed(self.starts[:-1]):
            image = images.pop()
            # Of each row: all red values, then all green ones, then all blue ones.
            rows = as_tensor(image).permute(0, 2, 1).reshape(-1)
            self.buffer[start : start + len(rows)].copy_(rows)

    def crop(
        self, numbers: Sequence[int], params: Sequence[AugmentationParams], size: Sequence[int], *, mode: str
    ) -> Tensor:
        """Return crops, resized and flipped, with the pixels of `Augment.crop` (see `resampling`).

        Args:
            numbers: Which images.
            params: Crop and flip of each.
            size: Height and width of the result in pixels.
            mode: Filter, as for `torch.nn.functional.interpolate`.

        Returns:
            (batch, 3, *size) uint8 on the device.
        """
        result = torch.empty(len(numbers), 3, *size, dtype=torch.uint8, device=self.buffer.device)
        for part in _parts(params):
            pixels = self._crop([numbers[i] for i in part], [params[i] for i in part], size, mode)
            if len(part) == len(numbers):
                return pixels
            result[torch.tensor(part).to(result.device, non_blocking=True)] = pixels
        return result

    def _crop(
        self, numbers: Sequence[int], params: Sequence[AugmentationParams], size: Sequence[int], mode: str
    ) -> Tensor:
        values = [
            (self.starts[i] + p.top * 3 * self.widths[i] + p.left, self.widths[i], p.height, p.width, p.flip)
            for i, p in zip(numbers, params, strict=True)
        ]
        # One copy, which does not wait for the device.
        columns = torch.tensor(values, dtype=torch.int64).to(self.buffer.device, non_blocking=True)
        corner, stride, heights, widths, flip = columns.unbind(1)
        height, width = max(p.height for p in params), max(p.width for p in params)
        rows = torch.arange(3 * height, device=self.buffer.device)
        rows = torch.minimum(rows, 3 * heights[:, None] - 1)  # rows below a crop have weight 0
        # Each index selects `width` consecutive bytes: the view has every run of that length, without a copy.
        pixels = self.buffer.unfold(0, width, 1)[corner[:, None] + rows * stride[:, None]].float()
        across = resampling_weights(widths, flip.bool(), size[1], longest=width, mode=mode)
        down = resampling_weights(heights, torch.zeros_like(flip.bool()), size[0], longest=height, mode=mode)
        pixels = resize_rows(pixels, across).view(len(params), height, 3 * size[1])
        pixels = resize_columns(pixels, down).view(len(params), size[0], 3, size[1])
        return pixels.permute(0, 2, 1, 3).to(torch.uint8, memory_format=torch.contiguous_format)


def _parts(params: Sequence[AugmentationParams]) -> Iterator[list[int]]:
    """Yield the positions of crops in groups that need little memory: all of them, or crops of similar sizes."""
    positions = sorted(range(len(params)), key=lambda i: params[i].height * params[i].width)
    while positions:
        count = len(positions)
        while count > 1 and _padded_size([params[i] for i in positions[:count]]) > _MAX_GATHERED:
            count = -(-count // 2)
        yield sorted(positions[:count])
        positions = positions[count:]


def _padded_size(params: Sequence[AugmentationParams]) -> int:
    return 3 * len(params) * max(p.height for p in params) * max(p.width for p in params)
