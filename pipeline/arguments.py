"""The flags: what each of them means, and which values it takes. Torch-free.

A dataclass for each group of `--help`; its fields are the flags. Those that the Trainer has too are in
`training.arguments`, because importing it costs seconds.

Raises:
    PipelineError: On construction, naming every flag of the group whose value is out of range.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import refuse

Policy = Literal["none", "basic", "trivial", "rand", "auto"]


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


@dataclass
class AugmentationArguments:
    """What is drawn for a training image, how classes are weighed, and at which size images are decoded."""

    augmentation: Policy = field(
        default="basic",
        metadata={
            "help": "none (as in evaluation), basic (random resized crop and flip), or basic with TrivialAugmentWide, "
            "RandAugment or AutoAugment."
        },
    )
    crop_scale: float = field(
        default=0.08, metadata={"help": "Smallest share of an image's area that the random crop takes."}
    )
    hflip: float = field(
        default=0.5, metadata={"help": "Probability of a horizontal flip; 0 where left and right matter."}
    )
    random_erasing: float = field(
        default=0.0, metadata={"help": "Probability that a rectangle of a training image is blanked."}
    )
    mixup: float = field(
        default=0.0, metadata={"help": "Blend pairs of images and labels by Beta(a, a); 0.8 in DeiT. 0: never."}
    )
    cutmix: float = field(
        default=0.0,
        metadata={"help": "Paste a rectangle of one image into another, share by Beta(a, a); 1.0 in DeiT. 0: never."},
    )
    patch_drop_rate: float = field(
        default=0.0,
        metadata={
            "help": "Share of its patches that a ViT does not see of a training image, drawn anew each time; a step "
            "costs as much less."
        },
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: the loss of an image counts inversely to the size of its class."}
    )
    balanced_sampling: bool = field(
        default=False, metadata={"help": "Draw each class equally often, whatever its size."}
    )
    decode_size: int | None = field(
        default=None,
        metadata={
            "help": "Pixels of the shorter side at which training images are decoded, once, before the crop; 0: all "
            "of them. 1.1 times the input when not given."
        },
    )
    image_cache_gb: float = field(
        default=8.0, metadata={"help": "Keep decoded training images on disk if they take no more than this; 0: never."}
    )

    def __post_init__(self) -> None:
        """Check all at once."""
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        if not 0 < self.crop_scale <= 1:
            yield f"--crop_scale {self.crop_scale}: a share of the area, above 0 and at most 1, is needed"
        for name in ("hflip", "random_erasing"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                yield f"--{name} {value}: a probability between 0 and 1 is needed"
        for name in ("mixup", "cutmix", "image_cache_gb", "decode_size"):
            if (getattr(self, name) or 0) < 0:
                yield f"--{name} {getattr(self, name)}: 0 or more is needed"
        if not 0 <= self.patch_drop_rate < 1:
            yield f"--patch_drop_rate {self.patch_drop_rate}: 0 or more and below 1 is needed"
        if self.class_weights != "none" and self.balanced_sampling:
            yield "--class_weights balanced and --balanced_sampling do the same twice: leave one out"


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
    soup: int = field(
        default=0,
        metadata={"help": "Average up to so many of the run's checkpoints, as long as validation improves (greedy)."},
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
        for name, least in (("freeze_blocks", 0), ("soup", 0), ("lora_rank", 1), ("lora_alpha", 1)):
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


@dataclass
class EvaluateArguments:
    """Which model to score, on which split, and where the figures go."""

    model: str | None = field(default=None, metadata={"help": "Run folder or Hub id."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    split: Literal["train", "validation", "test", "all"] | None = field(
        default=None,
        metadata={"help": "Which split. The test split, or else validation, or else all images."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for all_results.json and predictions.parquet. None: only print."},
    )


@dataclass
class PredictArguments:
    """Which model, how many labels, and where the table goes."""

    model: str | None = field(default=None, metadata={"help": "Run folder or Hub id."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    top_k: int = field(default=5, metadata={"help": "How many labels an image."})
    output: str | None = field(
        default=None,
        metadata={"help": "Write FILE.csv, FILE.jsonl or FILE.parquet. None: a table on the terminal."},
    )
    bad_images: Literal["fail", "skip"] = field(
        default="fail", metadata={"help": "What an image that cannot be read does: stop, or be left out."}
    )


@dataclass
class PushArguments:
    """Which run goes to which Hub repository."""

    model: str | None = field(default=None, metadata={"help": "Run folder."})
    hub_model_id: str | None = field(default=None, metadata={"help": "OWNER/NAME on the Hub."})
    hub_private_repo: bool = field(default=False, metadata={"help": "Make the repository private."})
    hub_revision: str = field(default="main", metadata={"help": "Branch to push to."})
