"""Flags of the model: which checkpoint, which head, which resolution."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class ModelArguments:
    """Which network, from which weights, at which resolution."""

    model_name_or_path: str = field(
        default="google/vit-base-patch16-224-in21k",
        metadata={"help": "Hub id, folder, or shipped base (synthetic-flowers-base)."},
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    from_scratch: bool = field(
        default=False, metadata={"help": "Take the architecture of that model, and random weights."}
    )
    head_init: Literal["random", "zero", "probe"] = field(
        default="random",
        metadata={
            "help": "Where a new head starts: drawn, from zeros as in the ViT paper, or from a linear probe on the "
            "network's frozen features."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Pixels a side, where not the checkpoint's: the position table is interpolated, once."},
    )
