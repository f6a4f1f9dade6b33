"""What the metrics need of each image: the predicted class, its probability, and how likely the true class was.

The logits are read once, in chunks, so that they can be a memory-mapped file that is larger than the memory. Everything
else is one number per image. NumPy only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError

Floats = NDArray[np.float64]

CHUNK = 2**18
"""Number of logits of a chunk: its copies stay in the cache of the CPU."""


@dataclass(frozen=True)
class Outcomes:
    """The outcome for each image of a split; each array has the shape (images,).

    Attributes:
        labels: True class.
        predicted: Most likely class; the first one if several are equally likely.
        confidence: Probability of the predicted class.
        loss: Cross-entropy in nats: minus the logarithm of the probability of the true class.
        rank: Number of classes that are ranked before the true class.
        squares: Sum of the squared probabilities of all classes.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: Floats
    loss: Floats
    rank: NDArray[np.int64]
    squares: Floats

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is correct."""
        return np.asarray(self.predicted == self.labels)


def outcomes_of(logits: NDArray[np.floating], labels: NDArray[np.integer], *, name: str = "logits") -> Outcomes:
    """Return the outcome for each image.

    Exponentials have the precision of the logits, sums double precision.

    Args:
        logits: Shape (images, classes).
        labels: True classes, shape (images,).
        name: What errors call the logits, such as `test split` or a file name.

    Raises:
        PipelineError: If logits are NaN or infinite.
    """
    rows = max(1, CHUNK // logits.shape[1])
    parts = [_of_chunk(logits[i : i + rows], labels[i : i + rows]) for i in range(0, len(labels), rows)]
    finite, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not finite.all():
        raise PipelineError(
            f"{name}: NaN or infinite logits for {np.sum(~finite)} of {len(labels)} images, first image number "
            f"{np.argmin(finite)}: use another checkpoint, or train again with a lower --learning_rate"
        )
    return Outcomes(np.asarray(labels), *columns)


def _of_chunk(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[NDArray[Any], ...]:
    """Return whether the logits are finite, and the columns of `Outcomes` after the labels."""
    rows = np.arange(len(labels))
    predicted = logits.argmax(axis=1)  # the first NaN, if there is one
    top, true = logits[rows, predicted], logits[rows, labels]
    finite = np.isfinite(top) & np.isfinite(logits.min(axis=1))

    rank = (logits > true[:, None]).view(np.uint8).sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero(predicted != labels)
    tied = logits[wrong] == true[wrong, None]
    several = np.flatnonzero(tied.view(np.uint8).sum(axis=1, dtype=np.int64) > 1)  # few, so that the rest can be slow
    earlier = np.arange(logits.shape[1]) < labels[wrong[several], None]
    rank[wrong[several]] += (tied[several] & earlier).sum(axis=1)

    with np.errstate(invalid="ignore", over="ignore"):  # refused by the caller
        powers = logits - top[:, None]
        np.exp(powers, out=powers)
        total = powers.sum(axis=1, dtype=np.float64)
        loss = np.log(total) - (true.astype(np.float64) - top)
        return finite, predicted, 1 / total, loss, rank, np.vecdot(powers, powers) / total**2
