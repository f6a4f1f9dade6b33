"""`--recipe auto`: settings from the images, the network and the machine, each with its reason.

What it chooses stands in front of the recipe's and the user's flags, so that any of them overrides it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import torch
from transformers import AutoModelForImageClassification

from pipeline import hub
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.models import resolution
from pipeline.models.checkpoint import is_timm, read_config
from pipeline.performance import flops
from pipeline.performance.matmul import matmul_rate

logger = logging.getLogger(__name__)

MAX_LEARNING_RATE = 5e-4  # of Adam on all pre-trained weights alike

AFFORDABLE_HOURS = 1.0  # of a full fine-tune on a CPU; what would take longer gets a probe
EXPECTED_MFU = 0.5  # of the machine's matrix products a second, as a training step gets them (README, Measured)
BYTES_PER_WEIGHT = 16  # fp32 weight, gradient and two moments of AdamW
SMALL_MODEL = 10e6  # parameters; what is chosen below was tried with 2.7 million


@dataclass(frozen=True)
class Facts:
    """What the choice depends on."""

    images: int  # for training
    classes: int
    parameters: int
    convolutional: bool
    from_scratch: bool
    image_size: int | None  # pixels a side, where it can be chosen
    step_flops: float  # of training on one image
    flops_a_second: float  # of large matrix products in the precision below
    precision: str
    device: str
    gpu_memory: int | None = None  # bytes

    @property
    def per_class(self) -> float:
        """Training images a class."""
        return self.images / self.classes

    @property
    def small(self) -> bool:
        """Whether so few parameters need, and bear, higher rates."""
        return self.parameters < SMALL_MODEL

    def hours(self, epochs: int) -> float:
        """What a full fine-tune takes."""
        return epochs * self.images * self.step_flops / (EXPECTED_MFU * self.flops_a_second) / 3600


@dataclass(frozen=True)
class Choice:
    """A flag, its value, and why."""

    flag: str
    value: object
    reason: str

    @property
    def word(self) -> str:
        """As on a command line."""
        return f"--{self.flag}={self.value}"

    def __str__(self) -> str:
        return f"--{self.flag} {self.value}: {self.reason}"


def gather(args: ModelArguments, training: FineTuningArguments, train: datasets.Dataset) -> Facts:
    """Look at the images, the network and the machine. Weights are not read.

    Raises:
        PipelineError: If the checkpoint is missing or is not for images.
    """
    name = args.model_name_or_path
    config = read_config(hub.find_model(name, revision=args.model_revision), name=name)
    with torch.device("meta"):
        network = AutoModelForImageClassification.from_config(config)
    own = getattr(resolution.vision_config(config), "image_size", None)
    size = args.image_size or (own if isinstance(own, int) else 224)
    return Facts(
        images=len(train),
        classes=len(train.features["label"].names),
        parameters=sum(weight.numel() for weight in network.parameters()),
        convolutional=not any(
            "attention" in module.lower() or "attn" in module.lower() for module, _ in network.named_modules()
        ),
        from_scratch=args.from_scratch,
        image_size=None if is_timm(config) else size,
        step_flops=float(flops.training_flops(network, (size, size)) or 0),
        flops_a_second=matmul_rate(training.device, training.precision),
        precision=training.precision,
        device=training.device.type,
        gpu_memory=torch.cuda.get_device_properties(0).total_memory if training.device.type == "cuda" else None,
    )


def warn_of_high_learning_rate(settings: Settings) -> None:
    """Say so where all pre-trained weights get a rate of Adam's that wrecks them, as the tutorial's notebook does."""
    rate, adaptation = settings.trainer.learning_rate, settings.adaptation
    full = adaptation.strategy == "full" and adaptation.layer_decay == 1 and not settings.model.from_scratch
    if full and "adam" in str(settings.trainer.optim).lower() and rate > MAX_LEARNING_RATE:
        logger.warning(
            "--learning_rate %g with Adam on all pre-trained weights unlearns what they know: stay at or below %g, "
            "or add --layer_decay 0.75",
            rate,
            MAX_LEARNING_RATE,
        )


def choose(facts: Facts) -> list[Choice]:
    """Return the settings for these facts."""
    epochs = _epochs(facts)
    strategy = _strategy(facts, epochs.value)
    precision = Choice("precision", facts.precision, f"{facts.device} computes fastest in it")
    if strategy.value == "head":
        return [strategy, precision]
    return [strategy, epochs, *_batch(facts), *_rates(facts, str(strategy.value)), *_images(facts), precision]


def _epochs(facts: Facts) -> Choice:
    per_class = facts.per_class
    epochs = next(count for most, count in ((20, 30), (100, 20), (1000, 10), (float("inf"), 5)) if per_class <= most)
    return Choice("num_train_epochs", epochs, f"{per_class:.3g} training images a class")


def _strategy(facts: Facts, epochs: object) -> Choice:
    hours = facts.hours(int(str(epochs)))
    if facts.from_scratch:
        return Choice("strategy", "full", "random weights have to be trained, all of them")
    if facts.device == "cpu" and hours > AFFORDABLE_HOURS:
        return Choice("strategy", "head", f"a full fine-tune of {epochs} epochs would take about {hours:.2g} h here")
    need = BYTES_PER_WEIGHT * facts.parameters
    if facts.gpu_memory is not None and need > facts.gpu_memory / 2 and not facts.convolutional:
        return Choice("strategy", "lora", f"all weights would need {need / 1e9:.3g} GB of GPU memory for AdamW alone")
    return Choice("strategy", "full", f"about {60 * hours:.2g} minutes on this machine")


def _batch(facts: Facts) -> Iterator[Choice]:
    wanted = 32 if facts.images < 10_000 else 128
    size = next(size for size in (wanted, 16, 8, 4, 2) if size == 2 or 10 * size <= facts.images)
    yield Choice("global_batch_size", size, f"{-(-facts.images // size)} steps an epoch")
    if facts.gpu_memory is not None:  # on an H200, a ViT-B/16 took twice the images a second in one pass of 128
        yield Choice("per_device_train_batch_size", size, "a GPU is faster in one pass than in several")
        yield Choice("auto_find_batch_size", True, "and takes several where its memory is too small for one")


def _rates(facts: Facts, strategy: str) -> Iterator[Choice]:
    yield Choice("optim", "adamw_torch_fused", "the usual choice for transformers, and safe for CNNs")
    yield Choice("weight_decay", 0.05, "as DeiT and MAE fine-tune")
    if facts.from_scratch:
        yield Choice("learning_rate", 1e-3, "nothing is learnt yet that it could wreck")
        return
    if facts.images < 10_000:  # with many more, the fit would take longer than it is worth
        yield Choice("refit_head", True, "brought 1.5 to 3 points, after training on 1,020 images of 102 classes")
    lower = "lower blocks, which are more general, move less (BEiT, MAE)"
    if facts.small and strategy == "full":
        yield Choice("learning_rate", 2e-3, f"so few pre-trained weights, {facts.parameters / 1e6:.3g} M, have to move")
        yield Choice("layer_decay", 0.85, lower)
        yield Choice("mixup", 0.5, "on a thousand photographs with 2.7 M weights, 0.2 brought two points, 0.5 one more")
        yield Choice("label_smoothing_factor", 0.1, "as DeiT; without it, as good in that trial")
        yield Choice("ema_decay", 0.99, "the mean of about the last hundred steps; without it, as good in that trial")
        return
    yield Choice("head_init", "probe", "a head that fits the frozen features does not shake them in its first steps")
    if strategy == "lora":
        yield Choice("learning_rate", 1e-3, "adapters start from nothing")
        return
    yield Choice("learning_rate", 1e-4, f"{facts.parameters / 1e6:.3g} M pre-trained weights")
    yield Choice("layer_decay", 0.75, lower)


def _images(facts: Facts) -> Iterator[Choice]:
    if facts.image_size is not None:
        yield Choice("image_size", facts.image_size, "the checkpoint's own; larger is better, and slower by its square")
    if facts.per_class > 200:
        yield Choice("augmentation", "trivial", "long training on many images bears a strong policy")
    else:
        yield Choice("augmentation", "basic", "random crop and flip: mixing pays on large data (ViT paper, BiT)")
    yield Choice("crop_scale", 0.4, "a crop of 8 % of a photograph often misses what it shows")
