"""Reject what a network cannot do, before anything is written."""

from collections.abc import Callable

from transformers import PreTrainedModel

from pipeline.arguments.settings import Settings
from pipeline.errors import PipelineError, refuse
from pipeline.images.processor import ImageProcessor, input_size
from pipeline.models import head, layers, lora, patch_dropout
from pipeline.performance import flops
from pipeline.selection import fixres


def reject_unsupported(model: PreTrainedModel, processor: ImageProcessor, settings: Settings) -> None:
    """Refuse what this network cannot do, before anything is written; all of it at once.

    Raises:
        PipelineError: Naming the flags.
    """
    chosen, size = settings.adaptation, input_size(processor)
    checks: list[Callable[[], object]] = []
    if rate := settings.augmentation.patch_drop_rate:
        checks.append(lambda: patch_dropout.drop_patches(flops.meta_copy(model), rate, size))
    if chosen.strategy == "head" or settings.model.head_init == "probe" or chosen.baseline or chosen.refit_head:
        checks.append(lambda: head.find_head(model))
    if chosen.fixres:
        checks.append(lambda: fixres.check(model, processor))
    if chosen.strategy == "lora":
        checks.append(lambda: lora.find_projections(model))
    if chosen.layer_decay < 1 or chosen.freeze_blocks:
        checks.append(lambda: layers.count_blocks(model, at_least=chosen.freeze_blocks))
    problems = []
    for check in checks:
        try:
            check()
        except PipelineError as error:
            problems.append(str(error))
    refuse(problems)
