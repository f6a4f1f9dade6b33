"""`fine_tune`: where the images are kept and whether the step is compiled, as the machine decides; then `fit`."""

import copy
import dataclasses
import logging
from typing import Any

import datasets

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.labels.read import read_integers
from pipeline.data.report import LoadedSplits
from pipeline.data.streaming import Stream, StreamShard
from pipeline.images.processor import ImageProcessor
from pipeline.images.train_images import PreparedImages, prepare_images, prepare_validation
from pipeline.images.transforms import TrainTransform
from pipeline.models.classifier import ImageClassifier
from pipeline.performance import compilation, flops
from pipeline.performance.matmul import matmul_rate
from pipeline.performance.throughput import Clock
from pipeline.runs.folder import RunFolder
from pipeline.training.fit import fit

logger = logging.getLogger(__name__)

_MIN_STEPS = 20  # a shorter training does not measure its speed


def fine_tune(
    classifier: ImageClassifier, splits: LoadedSplits, settings: Settings, *, run: RunFolder, clock: Clock
) -> dict[str, Any]:
    """Train the classifier with the images and the step that the machine decides on; `run.json` states both.

    Args:
        classifier: Its network is trained in place.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        settings: All settings of the training.
        run: Its record states the decisions, the seconds of each phase, and the speed.
        clock: Already started if more than this call counts as training time.

    Returns:
        What `fit` returns, without `speed`.

    Raises:
        PipelineError: As `fit` and `load_images` do.
        Terminated: If a signal arrived; a checkpoint was written.
    """
    settings = _with_decisions(settings, run)
    with run.timed("images"):
        images = load_images(splits, classifier.processor, settings)
    settings.trainer.torch_compile = decides_to_compile(settings, classifier, images=len(images.train.dataset))
    decisions = images.decisions | {"torch_compile": settings.trainer.torch_compile}
    run.update(machine=run.record["machine"] | decisions)
    try:
        results = fit(classifier, images, folder=run.folder, settings=settings, clock=clock)
    finally:  # also of a training that is interrupted, which the next call resumes
        run.add_timings(clock.phases)
    if speed := results.pop("speed", None):
        run.update(speed=speed)
        _remember_speed(settings, classifier, clock, compiled=speed["compiled"])
    return results


def _with_decisions(settings: Settings, run: RunFolder) -> Settings:
    """Return the settings with what the machine decided when the run was started, so that a resume repeats it."""
    decided = distributed.broadcast(run.record["machine"])
    images, args = settings.images, copy.copy(settings.trainer)
    if images.image_cache == "auto":
        images = dataclasses.replace(images, image_cache=decided.get("image_cache", "auto"))
    if args.torch_compile is None:
        args.torch_compile = decided.get("torch_compile")
    return dataclasses.replace(settings, images=images, trainer=args)


def load_images(splits: datasets.DatasetDict, processor: ImageProcessor, settings: Settings) -> PreparedImages:
    """Return the images of a training. Every process of a job must call it.

    Args:
        splits: `train` and `validation`, with columns `image`, `label` and `index`. `train` may be a stream.
        processor: The image processor of the network.
        settings: Augmentation, cache, random seed and device.

    Raises:
        BadImageError: If an image cannot be read.
        PipelineError: If `--image_cache device` needs too much memory.
    """
    args, train, validation = settings.trainer, splits["train"], splits["validation"]
    transform = TrainTransform(processor, settings.images, seed=args.seed)
    if isinstance(train, Stream):
        stream: Any = train
        shard = StreamShard(stream, transform, batch_size=args.train_batch_size, seed=args.seed, epoch=transform.epoch)
        scored = prepare_validation(
            validation, transform, settings.images, device=args.device, epochs=args.num_train_epochs
        )
        return PreparedImages(shard, scored, "none")
    images = prepare_images(
        train, validation, transform, settings.images, device=args.device, epochs=args.num_train_epochs
    )
    return dataclasses.replace(images, labels=read_integers(train))


def decides_to_compile(settings: Settings, classifier: ImageClassifier, *, images: int) -> bool:
    """Return whether a training compiles its step: what `--torch_compile` says, or with `auto` whether that pays.

    Args:
        settings: The settings of the training.
        classifier: The network that is trained.
        images: Training images of one epoch.
    """
    args = settings.trainer
    if args.torch_compile is not None:
        return args.torch_compile
    if not _measures(args):
        return False
    images_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    total = args.max_steps * images_per_step if args.max_steps > 0 else args.num_train_epochs * images
    rate = matmul_rate(args.device, args.precision)
    choice = compilation.choose(steps_of(classifier, args), images=total, rate=rate)
    logger.info("torch.compile: %s, because %s", "yes" if choice.pays else "no", choice.reason)
    return choice.pays


def _remember_speed(settings: Settings, classifier: ImageClassifier, clock: Clock, *, compiled: bool) -> None:
    """Add to `compile.json` what a training on one GPU measured. Without the file, the next one estimates.

    Args:
        settings: The settings of the training.
        classifier: The network that was trained.
        clock: The clock of the training.
        compiled: Whether its step was compiled.
    """
    args, speed = settings.trainer, clock.total.images_per_second
    if not _measures(args) or clock.total.images < _MIN_STEPS * args.per_device_train_batch_size:
        return
    measured = {"images_per_second": round(speed, 2)}
    if compiled:
        seconds = round(clock.phases["compile"], 2)
        measured = {"compiled_images_per_second": round(speed, 2), "compile_seconds": seconds}
    compilation.store(steps_of(classifier, args), measured)


def _measures(args: FineTuningArguments) -> bool:
    """Return whether the choice is made for these: on a CPU, and for several processes, it is unknown what pays."""
    return args.device.type == "cuda" and args.world_size == 1


def steps_of(classifier: ImageClassifier, args: FineTuningArguments) -> compilation.Steps:
    """Return what the speed of the steps of a training depends on."""
    cost = flops.forward_flops(classifier.model, classifier.input_size)
    name, batch = type(classifier.model).__name__, args.per_device_train_batch_size
    return compilation.Steps(name, cost, batch, args.precision, args.machine()["device"])
