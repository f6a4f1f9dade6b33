"""Progressive resizing: small images first, which cost less, and the full size in the last epochs.

As fast.ai and EfficientNetV2 (arXiv:2104.00298, section 4) train, in two stages. What is gained is the resolution of
scoring; a few epochs in it suffice (FixRes, arXiv:1906.06423).
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.models.resolution import patch_size

Size = tuple[int, int]

_SMALL = 0.9  # share of the epochs


class Grow(TrainerCallback):
    """Writes the size of an epoch's images where the augmentation reads it, in shared memory."""

    def __init__(self, told: Tensor, *, small: Size, full: Size) -> None:
        """Take where it is told, and both heights and widths in pixels."""
        self.told, self.small, self.full = told, small, full

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The size is a function of the epoch: a resumed run draws what an uninterrupted one does."""
        del args, control, kwargs
        small = int(state.epoch or 0) < int(_SMALL * state.num_train_epochs)
        self.told.copy_(Tensor(self.small if small else self.full))


def smaller(size: Size, share: float, config: PreTrainedConfig) -> Size:
    """The share of height and width in pixels, in whole patches of the network."""
    patch = patch_size(config)
    height, width = (max(1, round(share * side / patch)) * patch for side in size)
    return height, width
