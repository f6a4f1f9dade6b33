"""Flags of the training images: augmentation, decoding, cache. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import LOOP, flag

Policy = Literal["none", "basic", "trivial", "rand", "auto"]
ImageCache = Literal["auto", "device", "disk", "none"]


@dataclass
class ImageArguments:
    """How training images are augmented, decoded and cached."""

    augmentation: Policy = flag(
        "basic",
        "none (as in evaluation), basic (random resized crop and flip), or basic followed by trivial "
        "(TrivialAugmentWide), rand (RandAugment) or auto (AutoAugment).",
        strategies=LOOP,
    )
    crop_scale: float = flag(
        0.08,
        "Smallest area of the random crop, as a fraction of the image.",
        minimum=0,
        maximum=1,
        open_minimum=True,
        strategies=LOOP,
    )
    hflip: float = flag(
        0.5,
        "Probability of a horizontal flip. Use 0 if left and right differ in meaning.",
        minimum=0,
        maximum=1,
        strategies=LOOP,
    )
    random_erasing: float = flag(
        0.0, "Probability that a rectangle of a training image is erased.", minimum=0, maximum=1, strategies=LOOP
    )
    mixup: float = flag(
        0.0,
        "Alpha of mixup, which blends pairs of images and labels. 0: off; DeiT uses 0.8.",
        minimum=0,
        strategies=LOOP,
    )
    cutmix: float = flag(
        0.0,
        "Alpha of CutMix, which pastes a rectangle of another image. 0: off; DeiT uses 1.0.",
        minimum=0,
        strategies=LOOP,
    )
    patch_drop_rate: float = flag(
        0.0,
        "Fraction of patches dropped at random during training (ViT only). Steps get proportionally cheaper.",
        minimum=0,
        maximum=1,
        open_maximum=True,
        strategies=LOOP,
    )
    decode_size: int | None = flag(
        None,
        "Shorter side, in pixels, to which training images are decoded before the crop. 0: full size. Default: 1.1 "
        "times the input resolution.",
        minimum=0,
        strategies=LOOP,
    )
    image_cache: ImageCache = flag(
        "auto",
        "Where decoded images are cached: device (training and validation images in the memory of the GPU), disk "
        "(training images), or none. auto: device on a GPU if they need at most a quarter of its free memory, else "
        "disk.",
        neutral=True,
        needs_all_images=("device",),
        strategies=LOOP,
    )
    image_cache_gb: float = flag(
        8.0, "Cache decoded training images on disk only if they need at most this many gigabytes. 0: not on disk.",
        minimum=0, neutral=True, strategies=LOOP
    )  # fmt: skip
