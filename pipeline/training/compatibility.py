"""Reject settings that a network does not support, before anything is written."""

from collections.abc import Callable

from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError, raise_problems
from pipeline.models import layers, lora, patch_dropout
from pipeline.models.classifier import ImageClassifier
from pipeline.performance import flops
from pipeline.selection import fixres


def reject_unsupported(classifier: ImageClassifier, settings: Settings) -> None:
    """Raise one error with every setting that the network does not support.

    Raises:
        PipelineError: Naming the flags.
    """
    model, size, strategy = classifier.model, classifier.input_size, settings.strategy
    checks: list[Callable[[], object]] = []
    if rate := settings.images.patch_drop_rate:
        checks.append(lambda: patch_dropout.drop_patches(flops.meta_copy(model), rate, size))
    if needs_linear_head(settings):
        checks.append(lambda: classifier.head)
    if settings.selection.fixres:
        checks.append(lambda: fixres.check(classifier))
    if strategy.strategy == "lora":
        checks.append(lambda: lora.find_projections(model))
    if strategy.layer_decay < 1 or strategy.freeze_blocks:
        checks.append(lambda: layers.count_blocks(model, at_least=strategy.freeze_blocks))
    problems = []
    for check in checks:
        try:
            check()
        except PipelineError as error:
            problems.append(str(error))
    raise_problems(problems)


def needs_linear_head(settings: Settings) -> bool:
    """Return whether the settings ask for a linear probe anywhere."""
    strategy = settings.strategy
    head_is_probe = strategy.strategy == "head" or settings.model.head_init == "probe"
    return head_is_probe or strategy.baseline or settings.selection.refit_head
