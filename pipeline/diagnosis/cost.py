"""Findings about memory and time, from three measured training steps."""

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.arguments.settings import Settings
from pipeline.data.report import LoadedSplits
from pipeline.diagnosis.finding import Finding
from pipeline.images.processor import Normalize
from pipeline.images.transforms import TrainTransform, collate
from pipeline.models.classifier import ImageClassifier
from pipeline.performance.batch_size import is_out_of_memory
from pipeline.performance.device import DTYPES, synchronize
from pipeline.training.build import prepare

SUBJECT = "cost"

_STEPS = 3
_FORWARD = 1 / 3  # of a training step; its backward pass takes twice as long as its forward pass
_LONG_HOURS = 12.0


@dataclass(frozen=True)
class Step:
    """What a training step costs on this machine.

    Attributes:
        seconds: Median of three steps, without the input.
        input_seconds: Decoding and augmenting the images of a step, on one core.
        peak_bytes: Memory of the device, or of the process on a CPU.
        images: Images in a step of one process.
    """

    seconds: float
    input_seconds: float
    peak_bytes: int
    images: int


def cost(classifier: ImageClassifier, splits: LoadedSplits, settings: Settings) -> Iterator[Finding]:
    """Yield the expected time and memory of the training. The network is changed as in training.

    Args:
        classifier: A network that was just built. It must not be used afterwards.
        splits: The splits of the training.
        settings: All settings of the training.
    """
    args = settings.trainer
    try:
        step = measure(classifier, splits, settings)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        text = f"a step of {args.per_device_train_batch_size} images does not fit in memory"
        if args.finds_batch_size:
            yield Finding("note", SUBJECT, f"{text}, so train accumulates smaller ones; its time was not measured")
            return
        yield Finding("error", SUBJECT, text, "pass --auto_find_batch_size True, or a smaller --image_size")
        return
    yield Finding(
        "note", SUBJECT,
        f"a step of {step.images} images takes {step.seconds:.3g} s, and its input {step.input_seconds:.2g} s of one "
        f"core; memory {step.peak_bytes / 1e9:.2g} GB",
    )  # fmt: skip
    is_probe = settings.strategy.strategy == "head"
    expected = hours(step, train=len(splits["train"]), validation=len(splits["validation"]), settings=settings)
    length = f"{60 * expected:.1f} minutes" if expected < 2 else f"{expected:.1f} hours"
    epochs = f"{args.num_train_epochs:g} epochs with their evaluations"
    text = f"about {length} for {'the features of a linear probe' if is_probe else epochs}"
    if expected > _LONG_HOURS and (args.max_hours is None or args.max_hours > _LONG_HOURS):
        yield Finding("warning", SUBJECT, text, "consider --strategy head, which takes one pass, or --max_hours")
    else:
        yield Finding("note", SUBJECT, text)


def hours(step: Step, *, train: int, validation: int, settings: Settings) -> float:
    """Return the expected hours of a training with an evaluation after each epoch, or of one pass for a linear probe.

    Args:
        step: The measured step.
        train: Number of training images.
        validation: Number of validation images.
        settings: Strategy, epochs, data workers and processes.
    """
    args: Any = settings.trainer
    per_process = step.images * int(args.world_size)
    forward = _FORWARD * step.seconds + step.input_seconds / max(1, args.dataloader_num_workers)
    if settings.strategy.strategy == "head":
        return float((train + validation) / per_process * forward / 3600)
    workers = args.dataloader_num_workers  # with workers, the input of a step is made during the step before
    waited = max(step.seconds, step.input_seconds / workers) if workers else step.seconds + step.input_seconds
    seconds = args.num_train_epochs * (train * waited + validation * forward) / per_process
    return float(seconds / 3600)


def measure(classifier: ImageClassifier, splits: LoadedSplits, settings: Settings) -> Step:
    """Take training steps on the first images, and return what one costs.

    Raises:
        RuntimeError: If the device runs out of memory.
    """
    args, device = settings.trainer, settings.trainer.device
    images = min(args.per_device_train_batch_size, len(splits["train"]))
    network: Any = prepare(classifier.model, classifier.input_size, settings).to(device).train()
    transform = TrainTransform(classifier.processor, settings.images, seed=args.seed)
    start = time.perf_counter()
    rows = splits["train"].select(range(images)).with_transform(transform)
    batch = collate([rows[number] for number in range(images)])
    input_seconds = time.perf_counter() - start
    pixels, labels = Normalize(classifier.processor)(batch["pixel_values"].to(device)), batch["labels"].to(device)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0)
    dtype, seconds = DTYPES[args.precision], []
    for _ in range(_STEPS + 1):  # the first one allocates
        begun = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = network(pixel_values=pixels).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return Step(statistics.median(seconds[1:]), input_seconds, _peak_bytes(device), images)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
