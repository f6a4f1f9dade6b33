"""The predictions of exported files on all of validation -> a comparison with the network, and whether to refuse it.

Batches of 32 receive the pixels of the image processor, so they compare the graph. Batches of one receive the image
files through `standalone.preprocess`, so they compare everything that others run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.labels.read import read_integers
from pipeline.deployment.standalone import ExportedClassifier, preprocess
from pipeline.images.processor import Normalize
from pipeline.images.transforms import Batch, EvalTransform
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions, run_inference

BATCH_SIZES = (1, 32)
MAX_CLASS_DROP = 5.0  # points
MIN_LOST = 3
"""A class that loses fewer images is not a reason to refuse: with ten images, one is 10 points."""
MAX_FP32_DIFFERENCE = 1e-3  # of a logit, relative to the largest logit if that is above 1

Floats = NDArray[np.float32]
Outputs = dict[str, Floats]


@dataclass(frozen=True)
class Agreement:
    """How far the predictions of a file agree with those of the network, at one batch size.

    Attributes:
        accuracy: Of the file, as a fraction.
        drop: Accuracy that it loses, in points.
        same: Fraction of images with the same predicted class.
        logit_difference: The largest difference of a logit. None if a logit is infinite or not a number.
        worst_class: The class that loses most images.
        worst_drop: Accuracy that this class loses, in points.
        worst_lost: Correct images that this class loses.
        same_unknown: Fraction of images with the same answer to "is it unknown?"; None if the model has no such score.
    """

    accuracy: float
    drop: float
    same: float
    logit_difference: float | None
    worst_class: str
    worst_drop: float
    worst_lost: int
    same_unknown: float | None = None

    def refusals(self, max_drop: float, *, fp32: bool, largest: float) -> list[str]:
        """Return why the file is refused.

        Args:
            max_drop: Largest loss of accuracy in points.
            fp32: Whether its logits must be those of the network.
            largest: The largest logit of the network.
        """
        found = []
        if self.logit_difference is None:
            found.append("logits that are not numbers")
        elif fp32 and self.logit_difference > MAX_FP32_DIFFERENCE * max(1.0, largest):
            found.append(f"logits that differ by up to {self.logit_difference:.2g}")
        if self.drop > max_drop:
            found.append(f"{self.drop:.2f} points less accuracy ({100 * self.accuracy:.2f}%)")
        if self.worst_drop > MAX_CLASS_DROP and self.worst_lost >= MIN_LOST:
            found.append(f"{self.worst_drop:.1f} points less on class {self.worst_class!r} ({self.worst_lost} images)")
        return found


@dataclass(frozen=True)
class Reference:
    """The network on validation: its labels, logits (images, classes), and which images are unknown to it."""

    labels: NDArray[np.int64]
    logits: Floats
    unknown: NDArray[np.bool_] | None

    @property
    def accuracy(self) -> float:
        """Fraction of images whose predicted class is the true one."""
        return float((self.logits.argmax(axis=1) == self.labels).mean())

    def compare(self, outputs: Outputs, class_names: Sequence[str], unknown_threshold: float | None) -> Agreement:
        """Compare the outputs of a file for the same images."""
        predicted, expected = outputs["logits"].argmax(axis=1), self.logits.argmax(axis=1)
        count = len(class_names)
        images = np.bincount(self.labels, minlength=count)
        hits = [np.bincount(self.labels[each == self.labels], minlength=count) for each in (expected, predicted)]
        lost = hits[0] - hits[1]
        worst = int(np.argmax(lost))
        with np.errstate(invalid="ignore"):  # infinite logits
            difference = float(np.max(np.abs(outputs["logits"] - self.logits)))
        same_unknown = None
        if self.unknown is not None and unknown_threshold is not None:
            same_unknown = float(((outputs["unknown_score"] > unknown_threshold) == self.unknown).mean())
        return Agreement(
            accuracy=float(hits[1].sum() / len(self.labels)),
            drop=float(100 * lost.sum() / len(self.labels)),
            same=float((predicted == expected).mean()),
            logit_difference=difference if np.isfinite(difference) else None,
            worst_class=class_names[worst],
            worst_drop=float(100 * lost[worst] / max(images[worst], 1)),
            worst_lost=int(lost[worst]),
            same_unknown=same_unknown,
        )


class FilePixels(EvalTransform):
    """The evaluation transform, and the pixels that the exported files receive for the same image file."""

    def __init__(self, classifier: ImageClassifier, settings: Mapping[str, Any]) -> None:
        super().__init__(classifier.processor)
        self.settings = settings

    def __call__(self, batch: Batch) -> Batch:
        """Return `pixel_values`, and `pixels` (height, width, 3) uint8 for each image."""
        return super().__call__(batch) | {"pixels": [file_pixels(row, self.settings) for row in batch["image"]]}


def file_pixels(row: Mapping[str, Any], settings: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return what `standalone.preprocess` makes of an image of a split."""
    return preprocess(row["path"] if row["bytes"] is None else row["bytes"], settings)


def run_all(
    classifier: ImageClassifier,
    exported: Mapping[str, ExportedClassifier],
    split: datasets.Dataset,
    settings: Mapping[str, Any],
    *,
    progress: bool,
) -> tuple[Reference, dict[str, dict[int, Outputs]]]:
    """Run the network and all exported files on a split, whose images are decoded once.

    Returns:
        The network on the split, and the outputs of each file by batch size.
    """
    normalize = Normalize(classifier.processor)
    ood = classifier.uncertainty.ood if classifier.uncertainty is not None else None

    def forward(batch: dict[str, Any]) -> tuple[Outputs, dict[str, dict[int, Outputs]]]:
        expected: Outputs = {}
        if ood is None:
            expected["logits"] = classifier.logits(batch["pixel_values"])
        else:
            expected["logits"], features = classifier.logits_and_features(batch["pixel_values"])
            expected["unknown_score"] = ood.scores(features)
        processed = normalize.undo(batch["pixel_values"]).permute(0, 2, 3, 1).numpy()
        return expected, {
            name: {
                1: join([file.run(image[None]) for image in batch["pixels"]]),
                32: file.run(np.ascontiguousarray(processed)),
            }
            for name, file in exported.items()
        }

    rows = split.with_transform(FilePixels(classifier, settings))
    options = LoaderOptions(max(BATCH_SIZES), progress=progress)
    batches = run_inference(classifier.model, rows, forward, options, description="compare", collate_fn=_collate)
    expected = join([each for each, _ in batches])
    unknown = expected["unknown_score"] > ood.threshold if ood is not None else None
    reference = Reference(read_integers(split), expected["logits"], unknown)
    return reference, {
        name: {size: join([outputs[name][size] for _, outputs in batches]) for size in BATCH_SIZES} for name in exported
    }


def join(outputs: Sequence[Outputs]) -> Outputs:
    """Concatenate the outputs of batches."""
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "pixels": np.stack([row["pixels"] for row in rows]),
    }
