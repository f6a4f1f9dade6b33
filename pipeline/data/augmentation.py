"""What is drawn for a training image: a crop, a flip, and one of torchvision's policies. uint8 in, uint8 out.

Every draw comes from torch's global generator, which `data.transforms` seeds for each image: a policy that draws
from `random` or NumPy does not belong here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torchvision.transforms import v2

Policy = Literal["none", "basic", "trivial", "rand", "auto"]

# With torchvision's own settings, which are the papers'.
_POLICIES = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "auto": v2.AutoAugment}


@dataclass(frozen=True)
class Augmentation:
    """A policy, and the two numbers that data most often want otherwise.

    ``none`` is the evaluation's own geometry: no crop, no flip, nothing drawn. ``basic`` is a random resized crop and
    a flip; ``trivial`` (TrivialAugmentWide), ``rand`` (RandAugment) and ``auto`` (AutoAugment, ImageNet) follow it.
    """

    policy: Policy = "basic"
    crop_scale: float = 0.08
    hflip: float = 0.5

    def find_problems(self) -> list[str]:
        """Say which number is out of its range, as flags."""
        problems = []
        if not 0 < self.crop_scale <= 1:
            problems.append(f"--crop_scale {self.crop_scale}: a share of the area, above 0 and at most 1, is needed")
        if not 0 <= self.hflip <= 1:
            problems.append(f"--hflip {self.hflip}: a probability between 0 and 1 is needed")
        return problems

    def describe(self) -> str:
        """Say in words what is drawn."""
        if self.policy == "none":
            return "no augmentation"
        flip = f", flipped with probability {self.hflip:g}" if self.hflip else ", not flipped"
        more = f", then {_POLICIES[self.policy].__name__}" if self.policy in _POLICIES else ""
        return f"random resized crops of {100 * self.crop_scale:g} % of the area or more{flip}{more}"

    def compose(
        self, size: Sequence[int], *, interpolation: int, fill: Sequence[int]
    ) -> Callable[[Tensor], Tensor] | None:
        """Build the transform of one image (3, height, width) uint8; None where nothing is drawn.

        Args:
            size: Height and width in pixels of what comes out.
            interpolation: Of the crop, in Pillow's numbers.
            fill: Colour, 0 to 255, of what a rotation or a shift leaves empty.
        """
        if self.policy == "none":
            return None
        steps: list[v2.Transform] = [
            v2.RandomResizedCrop(size, scale=(self.crop_scale, 1.0), interpolation=interpolation, antialias=True),
            v2.RandomHorizontalFlip(self.hflip),
        ]
        if self.policy in _POLICIES:
            # Bilinear whatever the crop takes: torchvision turns tensors by no finer one.
            steps.append(_POLICIES[self.policy](interpolation=v2.InterpolationMode.BILINEAR, fill=list(fill)))
        composed: Callable[[Tensor], Tensor] = v2.Compose(steps)
        return composed


BASIC = Augmentation()
