"""Flags of the training images: augmentation, decoding, cache."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import refuse

Policy = Literal["none", "basic", "trivial", "rand", "auto"]


@dataclass
class AugmentationArguments:
    """What is drawn for a training image, how classes are weighed, and at which size images are decoded."""

    augmentation: Policy = field(
        default="basic",
        metadata={
            "help": "none (as in evaluation), basic (random resized crop and flip), or basic with TrivialAugmentWide, "
            "RandAugment or AutoAugment."
        },
    )
    crop_scale: float = field(
        default=0.08, metadata={"help": "Smallest share of an image's area that the random crop takes."}
    )
    hflip: float = field(
        default=0.5, metadata={"help": "Probability of a horizontal flip; 0 where left and right matter."}
    )
    random_erasing: float = field(
        default=0.0, metadata={"help": "Probability that a rectangle of a training image is blanked."}
    )
    mixup: float = field(
        default=0.0, metadata={"help": "Blend pairs of images and labels by Beta(a, a); 0.8 in DeiT. 0: never."}
    )
    cutmix: float = field(
        default=0.0,
        metadata={"help": "Paste a rectangle of one image into another, share by Beta(a, a); 1.0 in DeiT. 0: never."},
    )
    patch_drop_rate: float = field(
        default=0.0,
        metadata={
            "help": "Share of its patches that a ViT does not see of a training image, drawn anew each time; a step "
            "costs as much less."
        },
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: the loss of an image counts inversely to the size of its class."}
    )
    balanced_sampling: bool = field(
        default=False, metadata={"help": "Draw each class equally often, whatever its size."}
    )
    decode_size: int | None = field(
        default=None,
        metadata={
            "help": "Pixels of the shorter side at which training images are decoded, once, before the crop; 0: all "
            "of them. 1.1 times the input when not given."
        },
    )
    image_cache_gb: float = field(
        default=8.0, metadata={"help": "Keep decoded training images on disk if they take no more than this; 0: never."}
    )

    def __post_init__(self) -> None:
        """Check all at once."""
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        if not 0 < self.crop_scale <= 1:
            yield f"--crop_scale {self.crop_scale}: a share of the area, above 0 and at most 1, is needed"
        for name in ("hflip", "random_erasing"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                yield f"--{name} {value}: a probability between 0 and 1 is needed"
        for name in ("mixup", "cutmix", "image_cache_gb", "decode_size"):
            if (getattr(self, name) or 0) < 0:
                yield f"--{name} {getattr(self, name)}: 0 or more is needed"
        if not 0 <= self.patch_drop_rate < 1:
            yield f"--patch_drop_rate {self.patch_drop_rate}: 0 or more and below 1 is needed"
        if self.class_weights != "none" and self.balanced_sampling:
            yield "--class_weights balanced and --balanced_sampling do the same twice: leave one out"
