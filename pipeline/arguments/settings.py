"""`Settings`: every flag of a training in one value."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipeline.arguments import checks
from pipeline.arguments.data import DataArguments
from pipeline.arguments.flags import neutral_flags
from pipeline.arguments.images import ImageArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.selection import SelectionArguments
from pipeline.arguments.strategy import ObjectiveArguments, StrategyArguments
from pipeline.arguments.trainer import FineTuningArguments

GROUPS = (
    ModelArguments,
    DataArguments,
    ImageArguments,
    ObjectiveArguments,
    StrategyArguments,
    SelectionArguments,
    FineTuningArguments,
)
"""The groups of flags of `train`, in the order of the fields of `Settings`."""

NEUTRAL = neutral_flags(*GROUPS)
"""The flags in which two calls of the same run may differ."""


@dataclass(frozen=True)
class Settings:
    """Every flag of a training, checked and resolved for this machine.

    Attributes:
        given: The names of the flags that the recipe or the user gave. `--auto` does not change them.

    Raises:
        PipelineError: On construction, naming every flag that is out of range or cannot be combined with another.
    """

    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    images: ImageArguments = field(default_factory=ImageArguments)
    objective: ObjectiveArguments = field(default_factory=ObjectiveArguments)
    strategy: StrategyArguments = field(default_factory=StrategyArguments)
    selection: SelectionArguments = field(default_factory=SelectionArguments)
    trainer: FineTuningArguments = field(default_factory=FineTuningArguments)
    given: frozenset[str] = field(default=frozenset(), kw_only=True)

    def __post_init__(self) -> None:
        """Check the groups alone and in combination."""
        groups = (self.model, self.data, self.images, self.objective, self.strategy, self.selection, self.trainer)
        checks.require_valid(*groups)

    def resolved(self) -> dict[str, Any]:
        """Return the flags that `recipe.yaml` states, as plain values."""
        groups = (self.model, self.data, self.images, self.objective, self.strategy, self.selection)
        plain = {name: value for group in groups for name, value in dataclasses.asdict(group).items()}
        del plain["auto"]  # the settings that it chose are stated instead
        return plain | self.trainer.resolved()
