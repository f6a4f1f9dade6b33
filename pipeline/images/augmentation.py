"""Random augmentation of training images: crop, flip, one of torchvision's policies, random erasing.

Sampling is separate from applying: `Augment.sample` turns a seed into parameters, and `Augment.apply` turns an image
and its parameters into pixels (uint8 in, uint8 out). Every random choice is a function of the seed of the image. For
images in the memory of a GPU, `device.packed` crops a batch at once, and `device.policies` distorts it, from the same
parameters.

The policies sample from torch's global generator, so `apply` seeds it for each image and then restores it. A policy
that samples from `random` or NumPy is not supported here.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

from pipeline.arguments.images import ImageArguments

# torchvision's default settings of these policies are those of the papers.
POLICIES = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "auto": v2.AutoAugment}
# Pillow's resampling number -> torch's mode. All other numbers become bicubic, the best that torch offers.
_MODES = {0: "nearest-exact", 2: "bilinear"}
_MAX_LOG_RATIO = math.log(4 / 3)  # Largest aspect ratio of a crop (and its inverse), as in torchvision.
_MAX_TRIES = 10  # If no crop fits after this many tries, the largest center crop is used, as in torchvision.

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class AugmentationParams:
    """The random choices for one training image.

    Attributes:
        top: First row of the crop, in pixels.
        left: First column of the crop, in pixels.
        height: Height of the crop, in pixels.
        width: Width of the crop, in pixels.
        flip: Whether the crop is flipped horizontally.
        policy_seed: Random seed of the policy and of random erasing.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    policy_seed: int


class Operation(NamedTuple):
    """One step of a policy: its name in torchvision, and its magnitude; or `Erase`, and the rectangle."""

    name: str
    values: tuple[float, ...]


class _Recorded:
    """Makes a policy note its operations in place of applying them. Its random choices stay the same.

    It also skips the search for images in nested inputs, which would take most of the time.
    """

    operations: list[Operation]

    def _flatten_and_extract_image_or_video(self, inputs: tuple[Tensor]) -> tuple[None, Tensor]:
        return None, inputs[0]

    def _unflatten_and_insert_image_or_video(self, _: None, image: Tensor) -> Tensor:
        return image

    def _apply_image_or_video_transform(self, image: Tensor, transform_id: str, magnitude: float, **_: Any) -> Tensor:
        self.operations.append(Operation(transform_id, (magnitude,)))
        return image


# Classes of the module, because data workers that are not forked get the transform as a pickle.


class _RecordedTrivial(_Recorded, v2.TrivialAugmentWide):  # type: ignore[misc, unused-ignore]
    pass


class _RecordedRand(_Recorded, v2.RandAugment):  # type: ignore[misc, unused-ignore]
    pass


class _RecordedAuto(_Recorded, v2.AutoAugment):  # type: ignore[misc, unused-ignore]
    pass


_RECORDED = {"trivial": _RecordedTrivial, "rand": _RecordedRand, "auto": _RecordedAuto}


class _RecordedErasing(v2.RandomErasing):  # type: ignore[misc, unused-ignore]
    """Random erasing that notes the rectangle in place of erasing it."""

    operations: list[Operation]

    def forward(self, image: Tensor) -> Tensor:
        """Note the rectangle: top, left, height, width. There is none if no rectangle fits."""
        if torch.rand(1) < self.p and (params := self.make_params([image]))["v"] is not None:
            self.operations.append(Operation("Erase", tuple(float(params[key]) for key in "ijhw")))
        return image


class Augment:
    """Random augmentation of single images, in two steps: `sample`, then `apply`."""

    def __init__(self, args: ImageArguments, *, interpolation: int, fill: Sequence[int]) -> None:
        """Prepare the augmentation.

        Args:
            args: Crop, flip, policy and erasing. `augmentation` is not "none".
            interpolation: Resampling filter of the crop, as Pillow's number.
            fill: RGB color (0 to 255) of pixels that a rotation, a translation or an erasure leaves empty.
        """
        self.crop_scale, self.hflip = args.crop_scale, args.hflip
        self.mode = _MODES.get(interpolation, "bicubic")
        self.fill = list(fill)
        steps: list[v2.Transform] = []
        recorders: list[Any] = []
        if args.augmentation in POLICIES:
            # torchvision rotates tensors with nearest or bilinear interpolation only.
            policy = POLICIES[args.augmentation]
            options: dict[str, Any] = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": self.fill}
            steps.append(policy(**options))
            recorders.append(_RECORDED[args.augmentation](**options))
        if args.random_erasing:
            steps.append(v2.RandomErasing(args.random_erasing, value=self.fill))
            recorders.append(_RecordedErasing(args.random_erasing, value=self.fill))
        self.policy = v2.Compose(steps) if steps else None
        self._recorders = recorders

    def sample(self, seed: int, image_size: Sequence[int]) -> AugmentationParams:
        """Return the random choices for one image.

        Args:
            seed: Random seed of this image in this epoch (`derive_seed`).
            image_size: Height and width of the image in pixels.
        """
        generator = random.Random(seed)  # ten times as fast as torch's generator
        top, left, height, width = sample_crop(generator, image_size, min_area=self.crop_scale)
        return AugmentationParams(top, left, height, width, flip=generator.random() < self.hflip, policy_seed=seed)

    def apply(self, image: Tensor, params: AugmentationParams, size: list[int]) -> Tensor:
        """Return the augmented image (3, *size) uint8.

        Args:
            image: Pixels (3, height, width) uint8.
            params: What `sample` returned for an image of this height and width.
            size: Height and width of the result in pixels.
        """
        return self.distort(self.crop(image, params, size), params)

    def crop(self, image: Tensor, params: AugmentationParams, size: list[int]) -> Tensor:
        """Return the crop of an image (3, height, width), resized and flipped."""
        rows, columns = slice(params.top, params.top + params.height), slice(params.left, params.left + params.width)
        pixels = self._resize(image[:, rows, columns], size)
        return pixels.flip(-1) if params.flip else pixels

    def distort(self, pixels: Tensor, params: AugmentationParams) -> Tensor:
        """Apply the policy and the erasing to a crop, on its device. Random choices are the same on every device."""
        if self.policy is None:
            return pixels
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also seed the generators of the GPUs, and nothing would restore them.
            torch.default_generator.manual_seed(params.policy_seed)
            augmented: Tensor = self.policy(pixels)
        return augmented

    def sample_operations(self, params: Sequence[AugmentationParams], size: Sequence[int]) -> list[list[Operation]]:
        """Return what `distort` does to each crop, in order.

        Args:
            params: What `sample` returned for each image.
            size: Height and width of the crops in pixels.
        """
        shadow, found = torch.empty(3, *size, device="meta"), []
        with torch.random.fork_rng(devices=[]):
            for each in params:
                operations: list[Operation] = []
                torch.default_generator.manual_seed(each.policy_seed)
                for recorder in self._recorders:
                    recorder.operations = operations
                    recorder(shadow)
                found.append(operations)
        return found

    def _resize(self, crop: Tensor, size: list[int]) -> Tensor:
        # torchvision's resize converts to float32 on CPUs with AVX-512, which is half as fast.
        antialias = self.mode != "nearest-exact"
        return torch.nn.functional.interpolate(crop[None], size, mode=self.mode, antialias=antialias)[0]


def sample_crop(generator: random.Random, image_size: Sequence[int], *, min_area: float) -> Box:
    """Sample a crop with the distribution of torchvision's RandomResizedCrop, several times as fast.

    Args:
        generator: Source of the random numbers.
        image_size: Height and width of the image in pixels.
        min_area: Smallest area of the crop, as a fraction of the image, above 0 and at most 1.

    Returns:
        Top, left, height and width in pixels.
    """
    height, width = image_size
    for _ in range(_MAX_TRIES):
        area = height * width * generator.uniform(min_area, 1.0)
        ratio = math.exp(generator.uniform(-_MAX_LOG_RATIO, _MAX_LOG_RATIO))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return generator.randint(0, height - h), generator.randint(0, width - w), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def derive_seed(seed: int, epoch: int, index: int) -> int:
    """Return a 63-bit hash of the three numbers, so that the seeds of neighbors are unrelated."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
