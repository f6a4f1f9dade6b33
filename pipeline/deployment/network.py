"""A network -> answers and relevance maps for the page."""

import functools
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

from pipeline.deployment.page import TOP_K, Answer
from pipeline.errors import BadImageError, PipelineError
from pipeline.models import prediction
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.reporting.explanation.colors import heat

if TYPE_CHECKING:
    from pipeline.evaluation.explanations.explain import Explainer

logger = logging.getLogger(__name__)

_SIDE = 320  # the longer side of a relevance map, in pixels


class NetworkAnswers:
    """Answers for image files with the predictions that `predict` makes, and the maps that `explain` makes."""

    def __init__(self, classifier: ImageClassifier) -> None:
        self.classifier = classifier
        self._lock = threading.Lock()  # requests run in threads, and hooks read the layers of the network

    def answer(self, path: Path) -> Answer:
        """Return the answer for an image file.

        Raises:
            BadImageError: If the image cannot be read.
        """
        with self._lock:
            named: list[tuple[str | int, prediction.Source]] = [(path.name, path)]
            (batch,) = self.classifier.rank_batches(named, LoaderOptions(batch_size=1), top_k=TOP_K, fail=False)
            if (problem := batch.problems[0]) is not None:
                raise BadImageError(problem)
        names, verdicts = self.classifier.class_names, batch.verdicts
        probabilities = batch.probabilities[0].tolist() if verdicts.probabilities is None else verdicts.probabilities[0]
        return Answer(
            [(names[n], float(p)) for n, p in zip(batch.classes[0].tolist(), probabilities, strict=True)],
            None if verdicts.sets is None else [names[number] for number in verdicts.sets[0]],
            None if verdicts.abstain is None else verdicts.abstain[0],
            None if verdicts.unknown is None else verdicts.unknown[0],
        )

    def draw(self, path: Path) -> PIL.Image.Image | None:
        """Return the relevance map of the prediction over an image file, or None if the network cannot be explained.

        Raises:
            BadImageError: If the image cannot be read.
        """
        with self._lock:
            if self._explainer is None:
                return None
            rows = prediction.ImageRows([(path.name, path)], self.classifier.processor, fail=True)
            (explanation,) = self._explainer.explain_batch(prediction.collate_rows(rows.__getitems__([0])))
        height, width = explanation.pixels.shape[:2]
        scale = _SIDE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return heat(explanation.pixels, explanation.maps[0].relevance, size)

    @functools.cached_property
    def _explainer(self) -> "Explainer | None":
        """What makes the maps, found when the first one is needed; None if the network cannot be explained."""
        from pipeline.evaluation.explanations.explain import Explainer  # the first answer does not wait for it

        try:
            return Explainer(self.classifier, named=None, random_maps=0)
        except PipelineError as error:
            logger.warning("no relevance maps: %s", error)
            return None
