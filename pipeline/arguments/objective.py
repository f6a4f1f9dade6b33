"""Flags of what training minimizes: the weights of the classes and how often they are sampled. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import LOOP, flag


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
