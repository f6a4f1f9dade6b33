"""The training objective: cross-entropy with label smoothing and class weights, and mixup or cutmix of the batch.

Validation always uses the plain cross-entropy, so that validation losses of different runs can be compared.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from pipeline.arguments.images import ImageArguments
from pipeline.arguments.strategy import ObjectiveArguments


class Objective:
    """Cross-entropy of hard or soft labels, with label smoothing and class weights.

    It replaces the loss of the model: for float labels, a transformers model (5.23) assumes several labels per image
    and computes a binary cross-entropy.
    """

    def __init__(
        self,
        images: ImageArguments,
        objective: ObjectiveArguments,
        *,
        class_counts: Sequence[int],
        label_smoothing: float,
    ) -> None:
        """Prepare the class weights and the transforms that mix images.

        Args:
            images: Flags with the strengths of mixup and cutmix.
            objective: Flags with the class weights.
            class_counts: Number of training images of each class.
            label_smoothing: Fraction of each label that is spread evenly over all classes.
        """
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights(class_counts) if objective.class_weights == "balanced" else None
        transforms: list[v2.Transform] = [
            transform(alpha=alpha, num_classes=len(class_counts))
            for transform, alpha in ((v2.MixUp, images.mixup), (v2.CutMix, images.cutmix))
            if alpha
        ]
        self.mixing = v2.RandomChoice(transforms) if transforms else None

    def mix(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Mix the images of a batch, and their labels, by mixup (arXiv:1710.09412) or cutmix (arXiv:1905.04899).

        If both are on, one of them is chosen at random for each batch. All random numbers come from torch's global
        generator. A checkpoint stores its state.

        Args:
            inputs: `pixel_values` (batch, channels, height, width) and `labels` (batch,).

        Returns:
            The batch. If it was mixed, its labels are class probabilities (batch, classes).
        """
        if self.mixing is None:
            return inputs
        pixels, labels = self.mixing(inputs["pixel_values"], inputs["labels"])
        return inputs | {"pixel_values": pixels, "labels": labels}

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Return the sum of the losses of the images, divided by the number of images in the step.

        With this divisor the losses of gradient accumulation add up to the mean over the step.

        Args:
            outputs: Output of the model, with `logits` (batch, classes). Rows without a label are ignored.
            labels: Class numbers (batch,) or class probabilities (batch, classes).
            num_items_in_batch: Number of images in the step. Default: the batch size.
        """
        logits = outputs.logits[: len(labels)].float()
        if self.class_weights is not None:  # moved once, because a copy to the device would wait for it in every step
            self.class_weights = self.class_weights.to(logits.device)
        total = functional.cross_entropy(
            logits, labels, self.class_weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def class_weights(class_counts: Sequence[int]) -> Tensor:
    """Return loss weights (classes,) that are inversely proportional to the class sizes.

    The mean weight over all images is 1. The weight of a class without images is 0.
    """
    counts: NDArray[np.float64] = np.asarray(class_counts, dtype=np.float64)
    weights = np.divide(counts.sum() / np.count_nonzero(counts), counts, out=np.zeros_like(counts), where=counts > 0)
    return torch.from_numpy(weights).float()
