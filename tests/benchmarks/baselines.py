"""Baselines for the other benchmarks: the training loop of the tutorial's notebook, and a stock Trainer script.

`photographs`, `head`, `step` and `input` run them. The notebook's loop is the one that people copy: the head keeps the
classes of the checkpoint, pixels are normalized with the mean and std of CIFAR, and a scheduler that counts steps is
advanced once per epoch. The stock script uses `transformers.Trainer` with the library's defaults. Neither baseline is
tuned or made worse. Times start with the training; imports and loading are not included.
"""

import copy
import functools
import itertools
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    ViTForImageClassification,
)
from transformers.trainer_callback import PrinterCallback

EPOCHS = 15
NOTEBOOK_BATCH = 32
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TimeLine:
    """Validation accuracies, each with the seconds since training started, and the seconds of the complete run."""

    points: list[tuple[float, float]]
    seconds: float

    @property
    def best(self) -> float:
        """Return the highest validation accuracy."""
        return max(accuracy for _, accuracy in self.points)

    def seconds_to(self, accuracy: float) -> float:
        """Return the seconds until the accuracy was reached, or infinity if it never was."""
        return min((elapsed for elapsed, value in self.points if value >= accuracy), default=float("inf"))

    def best_within(self, seconds: float) -> float:
        """Return the best accuracy measured within that many seconds, or 0 if there was none."""
        return max((accuracy for elapsed, accuracy in self.points if elapsed <= seconds), default=0.0)


class NotebookData(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A map-style dataset over rows with `image` and `label`, as the notebook writes it."""

    def __init__(self, rows: datasets.Dataset, transform: Any) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        return self.transform(row["image"].convert("RGB")), row["label"]


class Notebook:
    """The notebook's training: Adam on all weights, batch size 32, fp32, no augmentation, no workers.

    Its OneCycleLR up to 1e-3 spans 20 epochs of steps, but the notebook advances it once per epoch.

    Args:
        splits: `train` and `validation`, with columns `image` (decoded) and `label` (a ClassLabel).
        checkpoint: Folder of a ViT.
        size: Input resolution in pixels.
        epochs: Number of epochs to train.
    """

    def __init__(self, splits: datasets.DatasetDict, checkpoint: Path, size: int, epochs: int = EPOCHS) -> None:
        silence_libraries()
        torch.manual_seed(42)
        self.epochs = epochs
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = ViTForImageClassification.from_pretrained(checkpoint)
        model.config.num_labels = len(splits["train"].features["label"].names)  # too late: the head was built before
        self.model = model.to(self.device)
        resize, normalize = transforms.Resize((size, size)), transforms.Normalize(*CIFAR)
        transform = transforms.Compose([resize, transforms.ToTensor(), normalize])
        training, validation = (NotebookData(splits[name], transform) for name in ("train", "validation"))
        self.train_loader = DataLoader(training, NOTEBOOK_BATCH, shuffle=True)
        self.val_loader = DataLoader(validation, NOTEBOOK_BATCH)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=1e-3, total_steps=20 * len(self.train_loader)
        )

    def train(self, batches: Batches) -> float:
        """Train on the batches; return the sum of their losses."""
        self.model.train()
        total = 0.0
        for images, labels in batches:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(images.to(self.device)).logits, labels.to(self.device))
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total

    @torch.no_grad()
    def validate(self, batches: Batches) -> float:
        """Return the accuracy on the images of the batches."""
        self.model.eval()
        correct = seen = 0
        for images, labels in batches:
            predicted = self.model(images.to(self.device)).logits.argmax(dim=1)
            correct += (predicted == labels.to(self.device)).sum().item()
            seen += len(labels)
        return correct / seen

    def run(self) -> TimeLine:
        """Train all epochs, validate after each one, and copy the best weights."""
        start, points, best = time.perf_counter(), [], -1.0
        for _ in range(self.epochs):
            self.train(self.train_loader)
            self.scheduler.step()
            accuracy = self.validate(self.val_loader)
            points.append((time.perf_counter() - start, accuracy))
            if accuracy > best:
                best, self.best_weights = accuracy, copy.deepcopy(self.model.state_dict())
        return TimeLine(points, time.perf_counter() - start)

    def estimate(self, steps: int) -> float:
        """Estimate the seconds of `run` from a number of training steps and a quarter as many validation batches."""
        training = _batches_per_second(self.train, repeat_forever(self.train_loader), steps)
        validation = _batches_per_second(self.validate, repeat_forever(self.val_loader), max(1, steps // 4))
        return self.epochs * (len(self.train_loader) / training + len(self.val_loader) / validation)


def _batches_per_second(
    function: Callable[[Batches], float], batches: Iterator[tuple[Tensor, Tensor]], count: int
) -> float:
    """Return the throughput of `function`; the first batch is not timed."""
    function(itertools.islice(batches, 1))
    start = time.perf_counter()
    function(itertools.islice(batches, count))
    return count / (time.perf_counter() - start)


def repeat_forever(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of one epoch after another; a loader that shuffles does so in each epoch."""
    while True:
        yield from batches


def synchronized_time(device: torch.device) -> float:
    """Return the clock in seconds after the device has finished its queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


class StepClock(TrainerCallback):
    """Measures the time from the end of the first step, which warms up, to the end of the last step."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.steps = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step not in (1, state.max_steps):
            return
        self.ends.append(synchronized_time(args.device))
        self.steps = state.global_step - 1

    @property
    def steps_per_second(self) -> float:
        """Return the steps per second after the first step."""
        return self.steps / (self.ends[-1] - self.ends[0])


class ValidationClock(TrainerCallback):
    """Records the accuracy of each evaluation and the seconds since training started."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.points: list[tuple[float, float]] = []

    def on_evaluate(self, *_: Any, **kwargs: Any) -> None:
        self.points.append((time.perf_counter() - self.start, kwargs["metrics"]["eval_accuracy"]))


def stock_trainer(
    splits: datasets.DatasetDict, checkpoint: Path, size: int, folder: str, *clocks: TrainerCallback, **overrides: Any
) -> Trainer:
    """Build the stock script: fp32, PIL transforms, no workers, batch size 8, AdamW at 5e-5 with linear decay.

    It trains 15 epochs and evaluates after each one.

    Args:
        splits: `train` and `validation`, with columns `image` (decoded) and `label` (a ClassLabel).
        checkpoint: Folder of any image classifier.
        size: Input resolution in pixels.
        folder: Output folder of the Trainer.
        clocks: Callbacks.
        overrides: Arguments of `TrainingArguments` that replace the defaults.
    """
    silence_libraries()
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    names = splits["train"].features["label"].names
    model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(
        checkpoint,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    training, validation = stock_transforms(processor, size)
    defaults: dict[str, Any] = {"num_train_epochs": EPOCHS, "eval_strategy": "epoch", "report_to": "none"}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(folder, remove_unused_columns=False, disable_tqdm=True, **defaults | overrides),
        data_collator=stock_collate,
        # Not lambdas, because workers that are not forked pickle the transform.
        train_dataset=splits["train"].with_transform(functools.partial(stock_transform_rows, transform=training)),
        eval_dataset=splits["validation"].with_transform(functools.partial(stock_transform_rows, transform=validation)),
        compute_metrics=_accuracy,
        callbacks=list(clocks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def stock_transforms(processor: Any, size: int) -> tuple[Any, Any]:
    """Return the stock script's transforms for training and for validation."""
    to_pixels = [transforms.ToTensor(), transforms.Normalize(mean=processor.image_mean, std=processor.image_std)]
    training = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *to_pixels])
    return training, transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *to_pixels])


def stock_transform_rows(rows: dict[str, list[Any]], transform: Any) -> dict[str, list[Any]]:
    """Transform rows on the fly, as the stock script does; `datasets` has decoded their images."""
    return {"pixel_values": [transform(image.convert("RGB")) for image in rows["image"]], "label": rows["label"]}


def stock_collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate transformed rows into a batch."""
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits: Any = prediction.predictions
    return {"accuracy": float((logits.argmax(axis=-1) == prediction.label_ids).mean())}


def run_stock(splits: datasets.DatasetDict, checkpoint: Path, size: int, epochs: int = EPOCHS) -> TimeLine:
    """Train and validate the stock script, which also writes a checkpoint every 500 steps, as is the default."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = stock_trainer(splits, checkpoint, size, folder, num_train_epochs=epochs)
        clock = ValidationClock()
        trainer.add_callback(clock)
        trainer.train()
        return TimeLine(clock.points, time.perf_counter() - clock.start)


def estimate_stock(splits: datasets.DatasetDict, checkpoint: Path, size: int, steps: int) -> float:
    """Estimate the seconds of `run_stock` without checkpoints from a number of steps.

    A quarter as many validation batches are timed.
    """
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        steps_only: dict[str, Any] = {"max_steps": steps + 1, "eval_strategy": "no", "save_strategy": "no"}
        trainer = stock_trainer(splits, checkpoint, size, folder, clock, **steps_only)
        trainer.train()
        batch, rows = trainer.args.eval_batch_size, trainer.eval_dataset
        part = rows.select(range(min(len(rows), batch * max(1, steps // 4))))  # type: ignore[union-attr, arg-type]
        trainer.evaluate(part.select(range(min(len(part), batch))))  # warm-up, not timed
        start = time.perf_counter()
        trainer.evaluate(part)
        validation = (time.perf_counter() - start) * len(splits["validation"]) / len(part)
        return EPOCHS * (len(trainer.get_train_dataloader()) / clock.steps_per_second + validation)


def run_in_subprocess(measure: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a new process and return its result, so that one side's memory cannot help the other."""
    # The processes of a `Pool` may not have children, but on a GPU the loader starts some.
    threads, context = torch.get_num_threads(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_initialize, initargs=(threads,)) as pool:
        return pool.submit(measure, *args).result()


def _initialize(threads: int) -> None:
    silence_libraries()
    torch.set_num_threads(threads)


def silence_libraries() -> None:
    """Turn off the progress bars and the advice of the libraries."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # The Trainer's default pins memory, which PyTorch warns about on a CPU.
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")


def median_and_range(values: Sequence[float], unit: str = "", digits: int = 1) -> str:
    """Format values as their median, then their minimum and maximum in brackets."""
    median, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median}{unit} [{low}, {high}]"
