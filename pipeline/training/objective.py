"""What training minimises: the loss, the weights of its classes, and images and labels that are blended.

Validation is measured with the plain cross-entropy whatever is set here, so that losses of runs compare.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from pipeline.arguments.images import AugmentationArguments


class Objective:
    """Cross-entropy of class numbers or shares, smoothed, and weighted by class.

    Soft labels get their own loss here: a model of transformers would take float labels for several labels an image
    and train a binary cross-entropy (5.23).
    """

    def __init__(self, args: AugmentationArguments, *, class_counts: Sequence[int], label_smoothing: float) -> None:
        """Take the classes' numbers of training images, and the share of a label that goes to all classes alike."""
        self.label_smoothing = label_smoothing
        self.weights = class_weights(class_counts) if args.class_weights == "balanced" else None
        blends: list[v2.Transform] = [
            blend(alpha=alpha, num_classes=len(class_counts))
            for blend, alpha in ((v2.MixUp, args.mixup), (v2.CutMix, args.cutmix))
            if alpha
        ]
        self.blend = v2.RandomChoice(blends) if blends else None

    def mix(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Blend a batch of `pixel_values` and `labels` by mixup (arXiv:1710.09412) or cutmix (arXiv:1905.04899).

        Where both are on, each batch takes one of them by lot. All draws are of torch's global generator, whose
        state a checkpoint keeps.

        Returns:
            The batch; its labels are class shares (batch, classes) if it was blended.
        """
        if self.blend is None:
            return inputs
        pixels, labels = self.blend(inputs["pixel_values"], inputs["labels"])
        return inputs | {"pixel_values": pixels, "labels": labels}

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Sum of the images' losses over the number of images in the whole step, as the Trainer accumulates them."""
        weights = None if self.weights is None else self.weights.to(outputs.logits.device)
        total = functional.cross_entropy(
            outputs.logits.float(), labels, weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def class_weights(class_counts: Sequence[int]) -> Tensor:
    """Weights (classes,) inverse to the classes' sizes, 1 in the mean over all images; 0 for a class without any."""
    counts: NDArray[np.float64] = np.asarray(class_counts, dtype=np.float64)
    weights = np.divide(counts.sum() / np.count_nonzero(counts), counts, out=np.zeros_like(counts), where=counts > 0)
    return torch.from_numpy(weights).float()
