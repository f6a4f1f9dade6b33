"""Flags of the strategy: which weights are trained, at which learning rate, and which are saved."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import refuse


@dataclass
class AdaptationArguments:
    """What of the network is trained, at which rate, and which weights are kept."""

    recipe: Literal["none", "auto"] = field(
        default="none",
        metadata={
            "help": "auto: choose strategy, rate, epochs, batch, augmentation, resolution and precision from images, "
            "network and machine, and say why; any flag overrides."
        },
    )
    strategy: Literal["full", "head", "lora"] = field(
        default="full",
        metadata={
            "help": "full: fine-tune all weights; lora: low-rank adapters, merged at the end; head: the best linear "
            "classifier on frozen features, in seconds."
        },
    )
    baseline: bool = field(
        default=False,
        metadata={"help": "First say what kNN and a linear probe on frozen features reach on validation."},
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Learning rate of each block, as a share of the one above it; 0.65 to 0.85."}
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the head, where not that of the last block."}
    )
    freeze_blocks: int = field(default=0, metadata={"help": "Leave so many of the lowest blocks as they are."})
    lora_rank: int = field(default=16, metadata={"help": "Rank of the adapters of --strategy lora."})
    lora_alpha: int = field(default=16, metadata={"help": "Their scale is alpha over rank."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout in front of the adapters."})
    keep_adapter: bool = field(default=False, metadata={"help": "Save the adapter too, in adapter/ of the run folder."})
    ema_decay: float | None = field(
        default=None, metadata={"help": "Score and save a moving average of the weights; 0.99 to 0.9999 a step."}
    )
    fixres: bool = field(
        default=False,
        metadata={
            "help": "After training, score validation on images of 8/7 of the size too, and save the network at the "
            "size that scores better (FixRes)."
        },
    )
    refit_head: bool = field(
        default=False,
        metadata={
            "help": "After training, fit the head anew on the trained network's features, by logistic regression, and "
            "save it if validation scores better."
        },
    )
    max_hours: float | None = field(
        default=None, metadata={"help": "Stop training after so many hours, score and save what is there."}
    )

    def __post_init__(self) -> None:
        """Check all at once."""
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        if not 0 < self.layer_decay <= 1:
            yield f"--layer_decay {self.layer_decay}: above 0 and at most 1 is needed"
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            yield f"--ema_decay {self.ema_decay}: between 0 and 1 is needed"
        if not 0 <= self.lora_dropout < 1:
            yield f"--lora_dropout {self.lora_dropout}: a probability below 1 is needed"
        for name, least in (("freeze_blocks", 0), ("lora_rank", 1), ("lora_alpha", 1)):
            if getattr(self, name) < least:
                yield f"--{name} {getattr(self, name)}: at least {least} is needed"
        for name in ("max_hours", "head_learning_rate"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                yield f"--{name} {getattr(self, name)}: more than 0 is needed"
        yield from self._problems_of_strategy()

    def _problems_of_strategy(self) -> Iterator[str]:
        if self.strategy != "lora" and self.keep_adapter:
            yield "--keep_adapter needs --strategy lora"
        if self.keep_adapter and self.refit_head:
            yield "--keep_adapter saves the trained head, which --refit_head replaces: add --refit_head False"
        if self.strategy == "head" and self.fixres:
            yield "--strategy head trains on no crops, which --fixres makes up for: leave it out"
        if self.strategy != "full" and (self.layer_decay < 1 or self.freeze_blocks):
            yield f"--strategy {self.strategy} trains no blocks: leave out --layer_decay and --freeze_blocks"
