"""The confusion matrix of a split: metrics of each class, confused pairs, and an order in which they stand together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.confidence import wilson_interval

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ClassRow:
    """How one class is recognized.

    Attributes:
        number: Number of the class.
        images: Images of the class.
        predicted: Images for which the class was predicted.
        correct: Images of the class for which it was predicted.
        interval: Wilson's 95% interval of the recall, None without images.
        mistaken_for: The class that is most often predicted for its images instead, None if there is none.
        mistakes: Number of images of the class for which `mistaken_for` was predicted.
    """

    number: int
    images: int
    predicted: int
    correct: int
    interval: tuple[float, float] | None
    mistaken_for: int | None
    mistakes: int

    @property
    def recall(self) -> float | None:
        """Fraction of its images that are recognized, None without images."""
        return self.correct / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Fraction of its predictions that are correct, None if it was never predicted."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, None if the class has neither images nor predictions."""
        total = self.images + self.predicted
        return 2 * self.correct / total if total else None


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused: `first` was taken for `second` `forth` times, and the other way `back` times."""

    first: int
    second: int
    forth: int
    back: int


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Counts:
    """Return the number of images of each true class (row) and predicted class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_rows(matrix: Counts) -> list[ClassRow]:
    """Return the metrics of each class, in the order of the matrix."""
    mistakes = matrix - np.diag(np.diag(matrix))
    rows = []
    for number, images in enumerate(matrix.sum(axis=1).tolist()):
        other, correct = int(mistakes[number].argmax()), int(matrix[number, number])
        count = int(mistakes[number, other])
        rows.append(
            ClassRow(
                number=number,
                images=images,
                predicted=int(matrix[:, number].sum()),
                correct=correct,
                interval=wilson_interval(correct, images) if images else None,
                mistaken_for=other if count else None,
                mistakes=count,
            )
        )
    return rows


def confused_pairs(matrix: Counts, at_most: int) -> list[Pair]:
    """Return the pairs of classes with the most confusions of both directions together, most confused first.

    The first class of a pair is the one that is more often taken for the other.
    """
    both = np.triu(matrix + matrix.T, k=1)
    order = np.argsort(-both, axis=None, kind="stable")[:at_most]
    pairs = []
    for low, high in zip(*np.unravel_index(order, both.shape), strict=True):
        if both[low, high]:
            first, second = (low, high) if matrix[low, high] >= matrix[high, low] else (high, low)
            forth, back = int(matrix[first, second]), int(matrix[second, first])
            pairs.append(Pair(int(first), int(second), forth, back))
    return pairs


def order_by_confusion(matrix: Counts) -> Sequence[int]:
    """Return an order of the classes in which classes that are often confused are neighbors.

    Average linkage clusters the classes. Their similarity is the mean of the fractions of either class that is taken
    for the other. Leaves are ordered optimally (Bar-Joseph et al. 2001, Bioinformatics 17, S22-S29).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # slow to import, and `app` does not need it
    from scipy.spatial.distance import squareform

    images = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    similarity = (matrix / images + (matrix / images).T) / 2
    np.fill_diagonal(similarity, 0)
    if not similarity.any():
        return list(range(len(matrix)))
    distance = 1 - similarity / np.max(similarity)
    np.fill_diagonal(distance, 0)
    order: list[int] = leaves_list(linkage(squareform(distance), "average", optimal_ordering=True)).tolist()
    return order
