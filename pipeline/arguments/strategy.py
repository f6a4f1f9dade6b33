"""Flags of the strategy: which weights are trained, at which rates, with which loss and sampling. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import LOOP, flag


@dataclass
class StrategyArguments:
    """Which weights are trained, and at which learning rates."""

    strategy: Literal["full", "head", "lora"] = flag(
        "full",
        "full: fine-tune all weights. lora: train low-rank adapters and merge them. head: fit a linear probe on frozen "
        "features, in seconds.",
        needs_all_images=("head",),
    )
    baseline: bool = flag(
        False,
        "Before training, report the validation accuracy of k-nearest neighbors and a linear probe on frozen features.",
        neutral=True,
        needs_all_images=(True,),
        strategies=LOOP,
    )
    layer_decay: float = flag(
        1.0,
        "Learning rate of each block as a fraction of the block above it; usually 0.65 to 0.85.",
        minimum=0,
        maximum=1,
        open_minimum=True,
        strategies=("full",),
    )
    head_learning_rate: float | None = flag(
        None, "Peak learning rate of the head. Default: --learning_rate.", minimum=0, open_minimum=True, strategies=LOOP
    )
    freeze_blocks: int = flag(
        0, "Freeze the embeddings and this many of the lowest blocks.", minimum=0, strategies=("full",)
    )
    lora_rank: int = flag(16, "Rank of the LoRA adapters.", minimum=1, strategies=("lora",))
    lora_alpha: int = flag(
        16, "Alpha of the LoRA adapters; their scale is alpha / rank.", minimum=1, strategies=("lora",)
    )
    lora_dropout: float = flag(
        0.1, "Dropout in front of the LoRA adapters.", minimum=0, maximum=1, open_maximum=True, strategies=("lora",)
    )
    keep_adapter: bool = flag(False, "Save the LoRA adapter too, in adapter/ of the run folder.", strategies=("lora",))
    ema_decay: float | None = flag(
        None,
        "Score and save an exponential moving average of the weights; usually 0.99 to 0.9999 per step.",
        minimum=0,
        maximum=1,
        open_minimum=True,
        open_maximum=True,
        strategies=LOOP,
    )


@dataclass
class ObjectiveArguments:
    """How classes of unequal size are weighted in the loss, or sampled."""

    class_weights: Literal["none", "balanced"] = flag(
        "none",
        "balanced: weight the loss of each image inversely to the size of its class.",
        needs_all_images=("balanced",),
        strategies=LOOP,
    )
    balanced_sampling: bool = flag(
        False, "Sample each class equally often, whatever its size.", needs_all_images=(True,), strategies=LOOP
    )
