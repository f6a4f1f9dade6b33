"""Which images of a split the report shows: mistakes, uncertain hits, confused pairs, and one image of each class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline.evaluation.confusion import Counts, Pair, confused_pairs, confusion_matrix
from pipeline.evaluation.predictions import Predictions

MAX_GALLERY = 12  # images in each gallery
MAX_PAIRS = 12


@dataclass(frozen=True)
class Scored:
    """The predictions of a split, with what every part of the report needs of them.

    Attributes:
        predictions: The predictions.
        predicted: The class with the highest logit, shape (images,).
        confidence: Its probability, shape (images,).
        correct: Whether it is the true class, shape (images,).
        matrix: The confusion matrix.
    """

    predictions: Predictions
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    matrix: Counts

    @classmethod
    def of(cls, predictions: Predictions) -> "Scored":
        """Return the predictions with their classes and probabilities."""
        predicted = predictions.logits.argmax(axis=1).astype(np.int64)
        confidence = softmax(predictions.logits.astype(np.float64), axis=1).max(axis=1)
        matrix = confusion_matrix(predictions.labels, predicted, predictions.logits.shape[1])
        return cls(predictions, predicted, confidence, predicted == predictions.labels, matrix)

    def _rows(self, chosen: NDArray[np.bool_], *, ascending: bool) -> list[int]:
        """Return the chosen rows by confidence. Equally confident rows keep their order."""
        rows = np.flatnonzero(chosen)
        sign = 1 if ascending else -1
        order: list[int] = rows[np.argsort(sign * self.confidence[rows], kind="stable")].tolist()
        return order

    def confident_mistakes(self) -> list[int]:
        """Return the rows of the wrong predictions with the highest confidence, highest first."""
        return self._rows(~self.correct, ascending=False)[:MAX_GALLERY]

    def uncertain_hits(self) -> list[int]:
        """Return the rows of the correct predictions with the lowest confidence, lowest first."""
        return self._rows(self.correct, ascending=True)[:MAX_GALLERY]

    def pairs(self) -> list[Pair]:
        """Return the most confused pairs of classes."""
        return confused_pairs(self.matrix, MAX_PAIRS)

    def examples_of(self, pair: Pair) -> tuple[int, int | None]:
        """Return two rows: an image of the first class that was taken for the second, and one of the second class.

        The image of the second class is one that was taken for the first class if there is one, else the one that is
        recognized with the highest confidence, else any. None: the split has no image of that class.
        """
        labels = self.predictions.labels
        confused = (labels == pair.first) & (self.predicted == pair.second)
        second = labels == pair.second
        for candidates in (second & (self.predicted == pair.first), second & self.correct, second):
            if candidates.any():
                return self._rows(confused, ascending=False)[0], self._rows(candidates, ascending=False)[0]
        return self._rows(confused, ascending=False)[0], None

    def typical(self) -> dict[int, int]:
        """Return a row for each class that has images: the hit with the highest confidence, else its first image."""
        best: dict[int, int] = {}
        for row in [*self._rows(self.correct, ascending=False), *range(len(self.correct))]:
            best.setdefault(int(self.predictions.labels[row]), row)
        return dict(sorted(best.items()))

    def shown_rows(self) -> list[int]:
        """Return every row that the report shows, without repetition: galleries, confused pairs, then the classes."""
        pairs = [row for pair in self.pairs() for row in self.examples_of(pair) if row is not None]
        rows = [*self.confident_mistakes(), *self.uncertain_hits(), *pairs, *self.typical().values()]
        return list(dict.fromkeys(rows))
