"""Flags of the data: which images, columns and splits."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DataArguments:
    """Which images, which columns, which splits."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub id, folder of class folders or tables, synthetic-flowers or oxford-flowers-102."},
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set that has several."}
    )
    dataset_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub data set."})
    streaming: bool = field(
        default=False,
        metadata={"help": "Fetch a Hub data set's train images while training, and keep none of them."},
    )
    image_column_name: str | None = field(
        default=None, metadata={"help": "Column with the images. Found by its type when not given."}
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column with the labels. Found by its type and name when not given."}
    )
    validation_fraction: float = field(
        default=0.15,
        metadata={"help": "Share of train that becomes validation, stratified, where the data have none."},
    )
    split_seed: int = field(
        default=42, metadata={"help": "Seed of that cut and of the sample limits, apart from --seed."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on a seeded, class-balanced part of this size."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "The same for the validation split."})
    max_test_samples: int | None = field(default=None, metadata={"help": "The same for the test split."})
    bad_images: Literal["fail", "skip"] = field(
        default="fail",
        metadata={"help": "What an image that cannot be read does: stop the run, or be left out."},
    )
