"""Flags of the model: which checkpoint, which head, which resolution. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import LOOP, flag


@dataclass
class ModelArguments:
    """Which model, from which weights, at which input resolution."""

    model_name_or_path: str = flag(
        "google/vit-base-patch16-224-in21k", "Hub id, local folder, or the shipped base synthetic-flowers-base."
    )
    model_revision: str = flag("main", "Branch, tag or commit of a Hub model.")
    from_scratch: bool = flag(False, "Use the architecture of the model with random weights.")
    head_init: Literal["random", "zero", "probe"] = flag(
        "random",
        "How a new head is initialized: random, zero (as in the ViT paper), or probe (from a linear probe on frozen "
        "features).",
        needs_all_images=("probe",),
        strategies=LOOP,
    )
    image_size: int | None = flag(
        None,
        "Input resolution in pixels. Default: the checkpoint's. Position embeddings are interpolated once.",
        minimum=1,
    )
