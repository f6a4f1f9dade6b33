"""What the model confuses: the table of classes, confused pairs, and galleries, with thumbnails where there are any."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
from markupsafe import Markup

from pipeline.evaluation.confusion import ClassRow, class_rows
from pipeline.evaluation.examples import Scored
from pipeline.evaluation.explanations.gallery import ShownMap
from pipeline.reporting.charts.chart import interval_bar
from pipeline.reporting.explanation.colors import heat
from pipeline.reporting.markup import data_uri
from pipeline.reporting.run_files import RunFiles

MAX_ROWS = 2000
"""With more classes, the table holds only those with the lowest accuracies."""


@dataclass(frozen=True)
class Picture:
    """A scored image.

    Attributes:
        image: Address of its thumbnail, None if there is none.
        id: Its path or row, as in `predictions.parquet`.
        label: Name of its class.
        prediction: Name of the predicted class.
        confidence: Probability of the predicted class, as text.
        correct: Whether the prediction is correct.
        relevance: Address of the relevance map of the predicted class, None if there is none.
        trust: How the map compares with random maps, as text.
    """

    image: str | None
    id: str
    label: str
    prediction: str
    confidence: str
    correct: bool
    relevance: str | None
    trust: str


@dataclass(frozen=True)
class ClassCells:
    """A row of the table of classes: the numbers, the name, an image, and a bar."""

    row: ClassRow
    name: str
    mistaken_for: str | None
    image: str | None
    bar: Markup


@dataclass(frozen=True)
class PairCard:
    """Two confused classes: names, counts in words, and an image of either.

    Attributes:
        first: Name of the class that is more often taken for the other.
        second: Name of the other class.
        forth: How many images of the first class were taken for the second, such as `8 of 10`.
        back: The other way, None if there are none.
        pictures: An image of the first class that was taken for the second, and one of the second class.
    """

    first: str
    second: str
    forth: str
    back: str | None
    pictures: Sequence[Picture]


class Mistakes:
    """The scored images of the headline split, as the page shows them."""

    def __init__(self, files: RunFiles, scored: Scored) -> None:
        """Store the predictions and thumbnails of a run."""
        self.scored, self.names = scored, files.class_names
        self._thumbnails = files.thumbnails or {}
        self._maps = files.gallery.maps if files.gallery else {}

    def class_cells(self) -> list[ClassCells]:
        """Return the classes with images or predictions, lowest accuracy first."""
        rows = [row for row in class_rows(self.scored.matrix) if row.images or row.predicted]
        rows.sort(key=lambda row: (1.0 if row.recall is None else row.recall, -row.images))
        typical = self.scored.typical()
        return [
            ClassCells(
                row=row,
                name=self.names[row.number],
                mistaken_for=None if row.mistaken_for is None else self.names[row.mistaken_for],
                image=self._image(typical[row.number]) if row.number in typical else None,
                bar=interval_bar(row.recall, *(row.interval or (0.0, 0.0))),
            )
            for row in rows[:MAX_ROWS]
        ]

    def never_predicted(self) -> list[str]:
        """Return the names of the classes that have images and were never predicted."""
        matrix = self.scored.matrix
        return [self.names[number] for number in np.flatnonzero((matrix.sum(axis=0) == 0) & (matrix.sum(axis=1) > 0))]

    def pair_cards(self) -> list[PairCard]:
        """Return the most confused pairs."""
        images = self.scored.matrix.sum(axis=1)
        cards = []
        for pair in self.scored.pairs():
            first, second = self.names[pair.first], self.names[pair.second]
            forth = f"{pair.forth} of {images[pair.first]}"
            back = f"{pair.back} of {images[pair.second]}" if pair.back else None
            shown = [row for row in self.scored.examples_of(pair) if row is not None]
            cards.append(PairCard(first, second, forth, back, [self._picture(row) for row in shown]))
        return cards

    def galleries(self) -> tuple[list[Picture], list[Picture]]:
        """Return the most confident mistakes and the least confident hits."""
        mistakes, hits = self.scored.confident_mistakes(), self.scored.uncertain_hits()
        return [self._picture(row) for row in mistakes], [self._picture(row) for row in hits]

    def _image(self, row: int) -> str | None:
        predictions = self.scored.predictions
        return data_uri(self._thumbnails.get((predictions.split, predictions.ids[row])))

    def _picture(self, row: int) -> Picture:
        shown = self._maps.get((self.scored.predictions.split, self.scored.predictions.ids[row]))
        return Picture(
            image=self._image(row),
            id=self.scored.predictions.ids[row],
            label=self.names[self.scored.predictions.labels[row]],
            prediction=self.names[self.scored.predicted[row]],
            confidence=_percent(float(self.scored.confidence[row])),
            correct=bool(self.scored.correct[row]),
            relevance=None if shown is None else _overlay(shown),
            trust="" if shown is None else _TRUST[shown.trusted],
        )


_TRUST = {True: "map trusted", False: "map not trusted", None: "map not compared"}


def _overlay(shown: ShownMap) -> str | None:
    """Return the address of the relevance map over the image."""
    with PIL.Image.open(io.BytesIO(shown.jpeg)) as image:
        picture = heat(np.asarray(image), shown.relevance, image.size)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80, optimize=True)
    return data_uri(content.getvalue())


def _percent(probability: float) -> str:
    """Return a probability in percent. It is 0% or 100% only if it is exactly 0 or 1."""
    if probability in (0.0, 1.0):
        return f"{probability:.0%}"
    return (
        f"{min(max(100 * probability, 0.1), 99.9):.1f}%"
        if probability < 0.1 or probability > 0.99
        else f"{probability:.0%}"
    )
