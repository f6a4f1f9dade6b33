"""`--auto`: settings chosen from the images, the model and the machine, each with its reason.

The choices are placed in front of the flags of the recipe and of the user, so any flag overrides its choice.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import torch
from transformers import AutoModelForImageClassification

from pipeline import distributed, hub
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.models import resolution
from pipeline.models.checkpoint import is_timm, read_config
from pipeline.models.head import has_linear_head
from pipeline.performance.step_time import BYTES_PER_WEIGHT, expected_image_seconds
from pipeline.probing import out_of_fold

logger = logging.getLogger(__name__)

MAX_LEARNING_RATE = 5e-4  # for Adam on all pre-trained weights; higher ones destroy the pre-trained features

AFFORDABLE_HOURS = 1.0  # for fully fine-tuning on a CPU; above it, --auto chooses a linear probe
BUDGET_HOURS = 1 / 6  # without --max_hours: for trials and training on a CPU, and for trials on a GPU
MIN_IMAGES = 30_000  # that a training sees; on 600 hand signs, 40 epochs gained 4 and 8 points over 20
MAX_EPOCHS = 100  # to see as many; VPT (arXiv:2203.12119) trains 100 epochs on 1,000 images
SMALL_MODEL = 10e6  # parameters; the choices for small models were tried with 2.7 million
MAX_REFIT_IMAGES = 10_000  # with more, fitting the head again takes too long
EVALUATIONS = 5  # during training; with few images, one costs half as much as an epoch of training
FIXED = "your flags fix it"


@dataclass(frozen=True)
class Facts:
    """What the choices depend on.

    Attributes:
        images: Number of training images.
        classes: Number of classes.
        parameters: Number of parameters of the network.
        convolutional: Whether the network has no attention.
        from_scratch: Whether it starts from random weights.
        image_size: Input resolution in pixels, or None if it is fixed.
        image_seconds: Expected seconds of training on one image, divided by the number of processes.
        precision: Precision of training.
        device: Type of the device.
        gpu_memory: Memory of the GPU in bytes, or None without a GPU.
        strategy: The strategy that flags of the user fix, or None.
        epochs: The number of epochs that the user fixed, or None.
        max_hours: The hours of training that the user allows, or None.
        validation_images: Number of validation images.
        refit_head: What the user fixed for `--refit_head`, or None.
        linear_head: Whether the head is a single linear layer, which a linear probe can replace.
    """

    images: int
    classes: int
    parameters: int
    convolutional: bool
    from_scratch: bool
    image_size: int | None
    image_seconds: float
    precision: str
    device: str
    gpu_memory: int | None = None
    strategy: str | None = None
    epochs: float | None = None
    max_hours: float | None = None
    validation_images: int = 0
    refit_head: bool | None = None
    linear_head: bool = True

    @property
    def budget_hours(self) -> float | None:
        """Hours for trials and training, or None if the training has no limit."""
        return BUDGET_HOURS if self.max_hours is None and self.device == "cpu" else self.max_hours

    @property
    def images_per_class(self) -> float:
        """Training images per class."""
        return self.images / self.classes

    @property
    def refits_head(self) -> bool:
        """Whether the head is fitted again after training."""
        if self.refit_head is not None:
            return self.refit_head
        return self.linear_head and self.images < MAX_REFIT_IMAGES

    @property
    def is_small(self) -> bool:
        """Whether the network is so small that higher learning rates are better."""
        return self.parameters < SMALL_MODEL

    def hours(self, epochs: float) -> float:
        """Return the expected hours of fully fine-tuning, with its evaluations."""
        scored = min(epochs, EVALUATIONS) * self.validation_images / 3  # the forward pass is a third of a step
        return (epochs * self.images + scored) * self.image_seconds / 3600


@dataclass(frozen=True)
class Choice:
    """A flag, its chosen value, and the reason."""

    flag: str
    value: object
    reason: str

    @property
    def word(self) -> str:
        """The choice as a word of a command line."""
        return f"--{self.flag}={self.value}"

    def __str__(self) -> str:
        return f"--{self.flag} {self.value}: {self.reason}"


def gather(args: ModelArguments, training: FineTuningArguments, splits: datasets.DatasetDict) -> Facts:
    """Return the facts about the images, the network and the machine. The weights are not read.

    Raises:
        PipelineError: If the checkpoint is missing or is not an image classifier.
    """
    name = args.model_name_or_path
    config = read_config(hub.find_model(name, revision=args.model_revision), name=name)
    classes = len(splits["train"].features["label"].names)
    config.num_labels = classes  # timm checkpoints may have no head
    own_size = getattr(resolution.vision_config(config), "image_size", None)
    size = args.image_size or (own_size if isinstance(own_size, int) else 224)
    if own_size is not None and not is_timm(config):
        resolution.vision_config(config).image_size = size  # FLOPs are counted at the resolution of the training
    with torch.device("meta"):
        network = AutoModelForImageClassification.from_config(config)
    modules = [name.lower() for name, _ in network.named_modules()]
    return Facts(
        images=len(splits["train"]),
        classes=classes,
        parameters=sum(weight.numel() for weight in network.parameters()),
        convolutional=not any("attention" in module or "attn" in module for module in modules),
        from_scratch=args.from_scratch,
        image_size=None if is_timm(config) else size,
        image_seconds=expected_image_seconds(
            lambda: AutoModelForImageClassification.from_config(config),
            network,
            (size, size),
            device=training.device,
            precision=training.precision,
        )
        / distributed.world_size(),
        precision=training.precision,
        device=training.device.type,
        gpu_memory=torch.cuda.get_device_properties(0).total_memory if training.device.type == "cuda" else None,
        max_hours=training.max_hours,
        validation_images=len(splits["validation"]),
        linear_head=has_linear_head(network),
    )


def warn_of_high_learning_rate(settings: Settings) -> None:
    """Warn if Adam updates all pre-trained weights at a learning rate that destroys their features."""
    rate, strategy = settings.trainer.learning_rate, settings.strategy
    full = strategy.strategy == "full" and strategy.layer_decay == 1 and not settings.model.from_scratch
    if full and "adam" in str(settings.trainer.optim).lower() and rate > MAX_LEARNING_RATE:
        logger.warning(
            "--learning_rate %g is high enough to destroy the pre-trained features when Adam updates all weights: use "
            "at most %g, or add --layer_decay 0.75",
            rate,
            MAX_LEARNING_RATE,
        )


def choose(facts: Facts) -> list[Choice]:
    """Return the settings for these facts."""
    epochs = _epochs(facts)
    strategy = _strategy(facts, float(str(epochs.value)))
    precision = Choice("precision", facts.precision, f"the fastest precision of this {facts.device}")
    if strategy.value == "head":
        return [strategy, precision]
    loop = [epochs, *_evaluations(float(str(epochs.value))), *_batch(facts)]
    return [strategy, *loop, *_learning_rates(facts, str(strategy.value)), *_images(facts), precision]


def _epochs(facts: Facts) -> Choice:
    if facts.epochs is not None:
        return Choice("num_train_epochs", facts.epochs, FIXED)
    wanted, per_class = _wanted_epochs(facts), f"{facts.images} training images, {facts.images_per_class:.3g} per class"
    hours = facts.hours(wanted)
    if facts.budget_hours is None or hours <= facts.budget_hours:
        return Choice("num_train_epochs", wanted, per_class)
    least = 1 if facts.max_hours is not None else -(-wanted // 2)  # with --max_hours, a longer training is cut off
    fitting = max(least, int(wanted * facts.budget_hours / hours))
    return Choice("num_train_epochs", fitting, f"{per_class}, for which {wanted} would take about {60 * hours:.2g} min")


def _wanted_epochs(facts: Facts) -> int:
    lengths = ((20, 30), (100, 20), (1000, 10), (float("inf"), 5))
    by_class = next(epochs for most, epochs in lengths if facts.images_per_class <= most)
    return max(by_class, min(-(-MIN_IMAGES // facts.images), MAX_EPOCHS))


def _evaluations(epochs: float) -> Iterator[Choice]:
    if epochs > EVALUATIONS:
        yield Choice("eval_steps", 1 / EVALUATIONS, f"{EVALUATIONS} evaluations instead of {epochs:g} save time")
        yield Choice("save_steps", 1 / EVALUATIONS, "a checkpoint with each of them")
        yield Choice("eval_strategy", "steps", "for --eval_steps")
        yield Choice("save_strategy", "steps", "for --save_steps")


def _strategy(facts: Facts, epochs: float) -> Choice:
    if facts.strategy is not None:
        return Choice("strategy", facts.strategy, FIXED)
    wanted = facts.epochs or _wanted_epochs(facts)
    hours = facts.hours(wanted)
    if facts.from_scratch:
        return Choice("strategy", "full", "random weights have to be trained completely")
    if facts.device == "cpu" and hours > AFFORDABLE_HOURS and facts.linear_head:
        return Choice(
            "strategy", "head", f"fully fine-tuning for {wanted:g} epochs would take about {hours:.2g} h here"
        )
    need = BYTES_PER_WEIGHT * facts.parameters
    if facts.gpu_memory is not None and need > facts.gpu_memory / 2 and not facts.convolutional:
        return Choice("strategy", "lora", f"AdamW on all weights would need {need / 1e9:.3g} GB of GPU memory")
    return Choice("strategy", "full", f"about {60 * facts.hours(epochs):.2g} min on this machine")


def _batch(facts: Facts) -> Iterator[Choice]:
    wanted = 32 if facts.images < 10_000 else 128
    size = next(size for size in (wanted, 16, 8, 4, 2) if size == 2 or 10 * size <= facts.images)
    yield Choice("global_batch_size", size, f"{-(-facts.images // size)} steps per epoch")


def _learning_rates(facts: Facts, strategy: str) -> Iterator[Choice]:
    yield Choice("optim", "adamw_torch_fused", "the usual choice for transformers, and safe for CNNs")
    yield Choice("weight_decay", 0.05, "as in fine-tuning DeiT and MAE")
    if facts.from_scratch:
        yield Choice("learning_rate", 1e-3, "there are no pre-trained features to destroy")
        return
    if facts.refits_head:
        yield Choice("refit_head", True, "gained 0.2 to 3.5 points on 1,020 images of 102 classes")
    decay_reason = "lower blocks are more general and need smaller updates (BEiT, MAE)"
    if facts.is_small and strategy == "full":
        yield Choice("learning_rate", 2e-3, f"a small network ({facts.parameters / 1e6:.3g} M parameters)")
        yield Choice("layer_decay", 0.85, decay_reason)
        # Stronger mixup leaves better features and a worse head: see tests/benchmarks/README.md.
        mixup = 0.8 if facts.refits_head else 0.5
        yield Choice("mixup", mixup, "on 1,020 photographs, 0.8 was better with a refitted head, and 0.5 without")
        if facts.linear_head and facts.images <= out_of_fold.MAX_IMAGES:
            yield Choice("baseline", True, "probes judge the training labels, which no training with mixup does")
        yield Choice("label_smoothing_factor", 0.1, "as in DeiT; made no difference in that trial")
        yield Choice("ema_decay", 0.99, "averages about the last hundred steps; made no difference in that trial")
        return
    if facts.linear_head:
        yield Choice("head_init", "probe", "a head that fits the frozen features keeps them intact in the first steps")
    if strategy == "lora":
        yield Choice("learning_rate", 1e-3, "adapters start from zero")
        return
    yield Choice("learning_rate", 1e-4, f"{facts.parameters / 1e6:.3g} M pre-trained parameters")
    yield Choice("layer_decay", 0.75, decay_reason)


def _images(facts: Facts) -> Iterator[Choice]:
    if facts.image_size is not None:
        yield Choice("image_size", facts.image_size, "the checkpoint's; a larger one costs its square in time")
        yield Choice("fixres", True, "random crops enlarge objects: after training, one more resolution is scored")
    if facts.images_per_class > 200:
        yield Choice("augmentation", "trivial", "strong augmentation pays with many images")
    else:
        yield Choice("augmentation", "basic", "random crop and flip; stronger ones pay on large data (ViT paper, BiT)")
    yield Choice("crop_scale", 0.4, "a crop of 8% of a photograph often misses its object")
