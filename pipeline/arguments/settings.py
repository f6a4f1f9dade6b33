"""`Settings`: every flag of a training in one value."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.strategy import AdaptationArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import refuse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """All that shapes a training."""

    trainer: FineTuningArguments
    augmentation: AugmentationArguments = field(default_factory=AugmentationArguments)
    adaptation: AdaptationArguments = field(default_factory=AdaptationArguments)
    model: ModelArguments = field(default_factory=ModelArguments)

    def __post_init__(self) -> None:
        """Refuse what does not hold together.

        Raises:
            PipelineError: Naming all of it.
        """
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        for name in ("mixup", "cutmix"):
            if getattr(self.augmentation, name) and self.trainer.per_device_train_batch_size == 1:
                yield (
                    f"--{name} blends the images of a batch, and one on a device has none beside it: raise "
                    "--per_device_train_batch_size"
                )
        balanced = self.augmentation.class_weights == "balanced" or self.augmentation.balanced_sampling
        if balanced and self.adaptation.refit_head:
            yield "--refit_head counts each image alike, and you asked for each class: add --refit_head False"
