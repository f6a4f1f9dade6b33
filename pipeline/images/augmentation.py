"""What is drawn for a training image: a crop, a flip, one of torchvision's policies, a blank. uint8 in, uint8 out.

Every draw is a function of the seed that comes with the image. The policies draw from torch's global generator, which
is seeded for them and put back; one that draws from `random` or NumPy does not belong here.
"""

import hashlib
import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from pipeline.arguments.images import AugmentationArguments

# With torchvision's own settings, which are the papers'.
_POLICIES = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "auto": v2.AutoAugment}
_MODES = {0: "nearest-exact", 2: "bilinear"}  # Pillow's numbers; bicubic for the others, the finest that torch has
_MAX_LOG_RATIO = math.log(4 / 3)  # of a crop, width over height, and the other way round; torchvision's own
_MAX_TRIES = 10  # to draw a crop that fits, before the largest in the centre is taken; torchvision's own

Box = tuple[int, int, int, int]


class Augment:
    """Draws for one image (3, height, width) uint8, by a seed, what comes out: (3, *size) uint8."""

    def __init__(self, args: AugmentationArguments, *, interpolation: int, fill: Sequence[int]) -> None:
        """Make it ready.

        Args:
            args: What is drawn; `augmentation` is not none.
            interpolation: Of the crop, in Pillow's numbers.
            fill: Colour, 0 to 255, of what a rotation, a shift or an erasure leaves empty.
        """
        self.crop_scale, self.hflip = args.crop_scale, args.hflip
        self.mode = _MODES.get(interpolation, "bicubic")
        more: list[v2.Transform] = []
        if args.augmentation in _POLICIES:
            # Bilinear whatever the crop takes: torchvision turns tensors by no finer one.
            policy = _POLICIES[args.augmentation]
            more.append(policy(interpolation=v2.InterpolationMode.BILINEAR, fill=list(fill)))
        if args.random_erasing:
            more.append(v2.RandomErasing(args.random_erasing, value=list(fill)))
        self.more = v2.Compose(more) if more else None

    def __call__(self, image: Tensor, seed: int, size: list[int]) -> Tensor:
        """Draw; `size` is height and width in pixels of what comes out."""
        draw = random.Random(seed)  # a tenth of the time of torch's generator
        top, left, height, width = sample_crop(draw, image.shape[-2:], smallest=self.crop_scale)
        image = self._resize(image[:, top : top + height, left : left + width], size)
        if draw.random() < self.hflip:
            image = image.flip(-1)
        if self.more is None:
            return image
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the generators of the GPUs too, and nothing restores those.
            torch.default_generator.manual_seed(seed)
            drawn: Tensor = self.more(image)
        return drawn

    def _resize(self, crop: Tensor, size: list[int]) -> Tensor:
        # Not torchvision's, which goes through float32 where the processor has AVX-512: at half the speed.
        antialias = self.mode != "nearest-exact"
        return torch.nn.functional.interpolate(crop[None], size, mode=self.mode, antialias=antialias)[0]


def sample_crop(draw: random.Random, size: Sequence[int], *, smallest: float) -> Box:
    """Draw a crop as torchvision's RandomResizedCrop does, which takes several times as long.

    Args:
        draw: Where the numbers come from.
        size: Height and width of the image in pixels.
        smallest: Share of its area, above 0 and at most 1.

    Returns:
        Top, left, height and width in pixels.
    """
    height, width = size
    for _ in range(_MAX_TRIES):
        area = height * width * draw.uniform(smallest, 1.0)
        ratio = math.exp(draw.uniform(-_MAX_LOG_RATIO, _MAX_LOG_RATIO))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def derive_seed(seed: int, epoch: int, index: int) -> int:
    """63 bits that mix the three numbers, so that neighbouring ones share nothing."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
