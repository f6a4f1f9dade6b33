"""A batch of images -> explanations: maps for the predicted and a named class, attention, and trust numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.explanations.methods import find_method
from pipeline.evaluation.explanations.trust import Trust, measure_trust
from pipeline.images.processor import Normalize
from pipeline.models.classifier import ImageClassifier


@dataclass(frozen=True)
class ClassMap:
    """A relevance map.

    Attributes:
        number: The class.
        is_predicted: Whether it is the class that the network predicts.
        probability: Probability of the class.
        relevance: (rows, columns), not negative.
        trust: How it compares with random maps, or None if that was not measured.
    """

    number: int
    is_predicted: bool
    probability: float
    relevance: NDArray[np.float32]
    trust: Trust | None


@dataclass(frozen=True)
class Explanation:
    """An explained image.

    Attributes:
        name: Its path.
        pixels: What the network received, as uint8 RGB (height, width, 3).
        maps: The map of the predicted class, then that of the named class if it is another one.
        attention: Attention from the class token to the patches (layers, heads, rows, columns), or None.
    """

    name: str
    pixels: NDArray[np.uint8]
    maps: list[ClassMap]
    attention: NDArray[np.float32] | None


class Explainer:
    """Explains batches of images with the method that fits the network."""

    def __init__(self, classifier: ImageClassifier, *, named: int | None, random_maps: int) -> None:
        """Find the method.

        Args:
            classifier: The classifier.
            named: A class that gets a map in addition to the predicted one.
            random_maps: Random maps of each image for the trust number. 0: it is not measured.

        Raises:
            PipelineError: If the network cannot be explained.
        """
        self.classifier, self.named, self.random_maps = classifier, named, random_maps
        self.method = find_method(classifier)
        self._normalize = Normalize(classifier.processor)

    def explain_batch(self, batch: dict[str, Any]) -> list[Explanation]:
        """Return the explanations of the readable images of a batch of `prediction.collate_rows`."""
        readable = [place for place, problem in enumerate(batch["problems"]) if problem is None]
        if not readable:
            return []
        pixels = batch["pixel_values"][readable]
        explained = self.method.explain(pixels)
        probabilities = explained.logits.softmax(dim=1).cpu()
        targets = [explained.logits.argmax(dim=1)]
        if self.named is not None:
            targets.append(torch.full_like(targets[0], self.named))
        maps = torch.stack([explained.relevance(classes) for classes in targets], dim=1).cpu().numpy()
        classes = torch.stack(targets, dim=1).tolist()
        attention = None if explained.attention is None else explained.attention.transpose(0, 1).cpu().numpy()
        images = self._normalize.undo(pixels).permute(0, 2, 3, 1).numpy()
        return [
            Explanation(
                str(batch["names"][place]),
                images[row],
                self._class_maps(pixels[row], list(dict.fromkeys(classes[row])), probabilities[row], maps[row]),
                None if attention is None else attention[row],
            )
            for row, place in enumerate(readable)
        ]

    def _class_maps(
        self, pixels: Tensor, classes: list[int], probabilities: Tensor, maps: NDArray[np.float32]
    ) -> list[ClassMap]:
        relevance = list(maps[: len(classes)])
        trusts: list[Trust | None] = [None] * len(classes)
        if self.random_maps:
            trusts = [*measure_trust(self._classify, pixels, relevance, classes, random_maps=self.random_maps)]
        return [
            ClassMap(number, place == 0, float(probabilities[number]), relevance[place], trusts[place])
            for place, number in enumerate(classes)
        ]

    @torch.no_grad()
    def _classify(self, pixels: Tensor) -> Tensor:
        output: Any = self.classifier.model(pixel_values=pixels)
        probabilities: Tensor = output.logits.softmax(dim=1)
        return probabilities
