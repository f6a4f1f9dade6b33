"""After training: propose another model, and keep it if validation accuracy improves."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import datasets

from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.errors import PipelineError
from pipeline.evaluation.scoring import score
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.probing.features import read_cached
from pipeline.probing.linear import head_accuracy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """A model that could replace the trained one.

    Attributes:
        description: What it is, for the log.
        before: Validation accuracy of the present model.
        after: Validation accuracy of the proposed model.
        accept: Returns the proposed model.
        results: What `all_results.json` gets, whether it is kept or not.
    """

    description: str
    before: float
    after: float
    accept: Callable[[], ImageClassifier]
    results: dict[str, Any] = field(default_factory=dict)


Propose = Callable[[ImageClassifier, datasets.DatasetDict, Settings], Proposal | None]
"""A selection step: gets the present model; returns a proposal, or None if it has none. All ranks must call it."""


def improve(
    classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings, steps: list[tuple[str, Propose]]
) -> tuple[ImageClassifier, dict[str, Any]]:
    """Return the best model that the selection steps find, and their results.

    A step is applied to the model that the previous step kept. A proposal with equal accuracy is not kept.

    Args:
        classifier: The trained model.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        settings: All settings of the training.
        steps: Name and function of each step, in their order.

    Raises:
        PipelineError: If an image cannot be read, or a step does not support the model.
    """
    results: dict[str, Any] = {}
    for name, propose in steps:
        if (proposal := propose(classifier, splits, settings)) is None:
            continue
        kept = proposal.after > proposal.before
        results |= proposal.results
        logger.info(
            "%s: validation accuracy %.2f%% with %s, %.2f%% before; %s",
            name,
            100 * proposal.after,
            proposal.description,
            100 * proposal.before,
            "keeping it" if kept else "keeping the present model",
        )
        if kept:
            classifier = proposal.accept()
    return classifier, results


def validation_accuracy(classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings) -> float:
    """Return the fp32 accuracy on validation; after `--refit_head` from cached features, and otherwise by scoring.

    All ranks must call it.

    Raises:
        BadImageError: If an image cannot be read.
    """
    validation = splits["validation"]
    try:
        assert classifier.head is not None
    except PipelineError:  # it is not one linear layer, so there are no features
        known = None
    else:
        known = read_cached(classifier, validation, name="validation", precision="fp32")
    if known is not None:
        return head_accuracy(classifier, known.head, read_integers(validation))
    return score(classifier, validation, LoaderOptions.of(settings.trainer), name="validation").accuracy
