"""Flags of the data: which images, columns and splits. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import ANY, flag

NO_DATASET = "no dataset given: pass --dataset_name FOLDER, a Hub id (OWNER/NAME) or synthetic-flowers"


@dataclass
class DataArguments:
    """Which images, which columns, which splits."""

    dataset_name: str | None = flag(
        None, "Hub id, local folder (class folders or tables), synthetic-flowers or oxford-flowers-102."
    )
    dataset_config_name: str | None = flag(None, "Configuration of a Hub dataset that has several.")
    dataset_revision: str = flag("main", "Branch, tag or commit of a Hub dataset.")
    streaming: bool = flag(
        False, "Download the training images of a Hub dataset during training, and store none of them."
    )
    image_column_name: str | None = flag(None, "Column with the images. Default: detected from the column types.")
    label_column_name: str | None = flag(
        None, "Column with the labels. Default: detected from the column types and names."
    )
    class_names: str | None = flag(
        None,
        "File that renames classes: LABEL,NAME lines (text, CSV, TSV, JSON), or one name per line.",
        needs_all_images=(ANY,),
    )
    min_images_per_class: int | None = flag(
        None,
        "Drop classes with fewer training images from all splits. 1 keeps classes of one image in train only.",
        minimum=1,
        needs_all_images=(ANY,),
    )
    validation_fraction: float = flag(
        0.15,
        "Fraction of the training images held out for validation (stratified) if the data has no validation split.",
        minimum=0,
        maximum=1,
        open_minimum=True,
        open_maximum=True,
    )
    split_seed: int = flag(42, "Random seed of the held-out validation split and of the sample limits.")
    max_train_samples: int | None = flag(
        None,
        "Train on a class-balanced random subset of this size.",
        minimum=1,
        needs_all_images=(ANY,),
    )
    max_eval_samples: int | None = flag(None, "Score a class-balanced random subset of validation.", minimum=1)
    max_test_samples: int | None = flag(None, "Score a class-balanced random subset of test.", minimum=1)
    drop_list: str | None = flag(
        None,
        "File with rows to drop: issues.csv of a run with `drop` in its column action, or one file or row per line.",
        needs_all_images=(ANY,),
    )
    relabel: str | None = flag(
        None,
        "CSV file with new labels: issues.csv of a run with `relabel` in its column action, or columns file and label.",
        needs_all_images=(ANY,),
    )
    bad_images: Literal["fail", "skip"] = flag(
        "fail", "What to do with images that cannot be read: fail before training, or skip them with a warning."
    )
    max_bad_images: float = flag(
        0.01,
        "With --bad_images skip: fail if more than this fraction of a split cannot be read. One image may always be "
        "skipped.",
        minimum=0,
        maximum=1,
        neutral=True,
    )
    dataloader_timeout: int = flag(
        300,
        "Seconds without progress in reading images, after which the command ends because a disk or a data worker "
        "hangs.",
        short=False,
        minimum=1,
        neutral=True,
    )
    follow_paths: bool = flag(
        False,
        "Read images outside of the dataset's folder that its tables list. Only for tables that you trust.",
        neutral=True,
    )
