"""What the pipeline is measured against: the tutorial's notebook (N), and a stock Trainer script (S).

`photographs`, `head`, `step` and `input` run them. N is the notebook's loop as people copy it: the head keeps the
classes of the checkpoint, the pixels are normalised with the statistics of CIFAR, the schedule of a step is advanced
once an epoch. S is a script on `transformers.Trainer` with the library's defaults. Neither is tuned, nor made worse
than it is found. Time counts from the first second of training: what is imported and loaded before is left out.
"""

import copy
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
    """Validation accuracies, each with the seconds since training began, and the seconds of the whole."""

    points: list[tuple[float, float]]
    seconds: float

    @property
    def best(self) -> float:
        return max(accuracy for _, accuracy in self.points)

    def seconds_to(self, accuracy: float) -> float:
        """Until that accuracy is reached; infinity if it never is."""
        return min((seconds for seconds, reached in self.points if reached >= accuracy), default=float("inf"))

    def best_within(self, seconds: float) -> float:
        """Best accuracy known after so many seconds; 0 if there is none yet."""
        return max((accuracy for passed, accuracy in self.points if passed <= seconds), default=0.0)


class NotebookData(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Rows with `image` and `label`, as the notebook wraps them."""

    def __init__(self, rows: datasets.Dataset, transform: Any) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        return self.transform(row["image"].convert("RGB")), row["label"]


class Notebook:
    """N: Adam at 1e-3 on all weights, batch 32, fp32, no workers.

    Args:
        splits: `train` and `validation`, with columns `image` (decoded) and `label` (a ClassLabel).
        checkpoint: Folder of a ViT.
        size: Its input, pixels a side.
        epochs: The schedule's length.
    """

    def __init__(self, splits: datasets.DatasetDict, checkpoint: Path, size: int, epochs: int = EPOCHS) -> None:
        quieten()
        torch.manual_seed(42)
        self.epochs = epochs
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = ViTForImageClassification.from_pretrained(checkpoint)
        model.config.num_labels = len(splits["train"].features["label"].names)  # too late: the head stays as it was
        self.model = model.to(self.device)
        resize, normalize = transforms.Resize((size, size)), transforms.Normalize(*CIFAR)
        flip, to_tensor = transforms.RandomHorizontalFlip(), transforms.ToTensor()
        training = NotebookData(splits["train"], transforms.Compose([resize, flip, to_tensor, normalize]))
        validation = NotebookData(splits["validation"], transforms.Compose([resize, to_tensor, normalize]))
        self.train_loader = DataLoader(training, NOTEBOOK_BATCH, shuffle=True)
        self.val_loader = DataLoader(validation, NOTEBOOK_BATCH)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=1e-3, epochs=epochs, steps_per_epoch=len(self.train_loader)
        )

    def train(self, batches: Batches) -> float:
        """Sum of the losses of the batches."""
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
        """Share of the images that are named rightly."""
        self.model.eval()
        correct = seen = 0
        for images, labels in batches:
            predicted = self.model(images.to(self.device)).logits.argmax(dim=1)
            correct += (predicted == labels.to(self.device)).sum().item()
            seen += len(labels)
        return correct / seen

    def run(self) -> TimeLine:
        """Train all epochs, validate after each, keep the best weights."""
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
        """Seconds of `run`, from so many training steps, and a quarter as many batches of validation."""
        training = _rate(self.train, endless(self.train_loader), steps)
        validation = _rate(self.validate, endless(self.val_loader), max(1, steps // 4))
        return self.epochs * (len(self.train_loader) / training + len(self.val_loader) / validation)


def _rate(work: Any, batches: Iterator[tuple[Tensor, Tensor]], count: int) -> float:
    """Batches a second of `work`, the first batch left out."""
    work(itertools.islice(batches, 1))
    start = time.perf_counter()
    work(itertools.islice(batches, count))
    return count / (time.perf_counter() - start)


def endless(batches: Iterable[Any]) -> Iterator[Any]:
    """Epoch after epoch, each shuffled anew."""
    while True:
        yield from batches


def now(device: torch.device) -> float:
    """Seconds on the clock, once the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


class StepClock(TrainerCallback):
    """Notes when the first and the last step of a Trainer ended, on the device too; the first warms up."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.steps = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step not in (1, state.max_steps):
            return
        self.ends.append(now(args.device))
        self.steps = state.global_step - 1

    @property
    def rate(self) -> float:
        """Steps a second between these two."""
        return self.steps / (self.ends[-1] - self.ends[0])


class ValidationClock(TrainerCallback):
    """Notes after each evaluation its accuracy, and the seconds since training began."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.points: list[tuple[float, float]] = []

    def on_evaluate(self, *_: Any, **known: Any) -> None:
        self.points.append((time.perf_counter() - self.start, known["metrics"]["eval_accuracy"]))


def stock_trainer(
    splits: datasets.DatasetDict, checkpoint: Path, size: int, folder: str, *clocks: TrainerCallback, **changes: Any
) -> Trainer:
    """S: fp32, PIL transforms in this process, batch 8, AdamW at 5e-5 falling linearly, 15 epochs, each evaluated.

    Args:
        splits: As of the notebook.
        checkpoint: Folder of any image classifier.
        size: Its input, pixels a side.
        folder: Where it saves.
        clocks: Callbacks.
        changes: Of `TrainingArguments`.
    """
    quieten()
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
        args=TrainingArguments(folder, remove_unused_columns=False, disable_tqdm=True, **defaults | changes),
        data_collator=stock_collate,
        train_dataset=splits["train"].with_transform(lambda rows: transformed(rows, training)),
        eval_dataset=splits["validation"].with_transform(lambda rows: transformed(rows, validation)),
        compute_metrics=_accuracy,
        callbacks=list(clocks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def stock_transforms(processor: Any, size: int) -> tuple[Any, Any]:
    """What S does to an image of training, and to one of validation."""
    last = [transforms.ToTensor(), transforms.Normalize(mean=processor.image_mean, std=processor.image_std)]
    training = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *last])
    return training, transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *last])


def transformed(rows: dict[str, list[Any]], transform: Any) -> dict[str, list[Any]]:
    """Rows with `image`, decoded by `datasets`, and `label`, as S has them transformed on the fly."""
    return {"pixel_values": [transform(image.convert("RGB")) for image in rows["image"]], "label": rows["label"]}


def stock_collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of what `transformed` gives."""
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits: Any = prediction.predictions
    return {"accuracy": float((logits.argmax(axis=-1) == prediction.label_ids).mean())}


def run_stock(splits: datasets.DatasetDict, checkpoint: Path, size: int, epochs: int = EPOCHS) -> TimeLine:
    """Train and validate S; its checkpoints are written, as by default every 500 steps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = stock_trainer(splits, checkpoint, size, folder, num_train_epochs=epochs)
        clock = ValidationClock()
        trainer.add_callback(clock)
        trainer.train()
        return TimeLine(clock.points, time.perf_counter() - clock.start)


def estimate_stock(splits: datasets.DatasetDict, checkpoint: Path, size: int, steps: int) -> float:
    """Seconds of `run_stock`, its checkpoints left out, from so many steps and a quarter as many of validation."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        alone: dict[str, Any] = {"max_steps": steps + 1, "eval_strategy": "no", "save_strategy": "no"}
        trainer = stock_trainer(splits, checkpoint, size, folder, clock, **alone)
        trainer.train()
        batch, rows = trainer.args.eval_batch_size, trainer.eval_dataset
        part = rows.select(range(min(len(rows), batch * max(1, steps // 4))))  # type: ignore[union-attr, arg-type]
        trainer.evaluate(part.select(range(min(len(part), batch))))  # warms up
        start = time.perf_counter()
        trainer.evaluate(part)
        validation = (time.perf_counter() - start) * len(splits["validation"]) / len(part)
        return EPOCHS * (len(trainer.get_train_dataloader()) / clock.rate + validation)


def alone(measure: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process of its own: how one side keeps its memory must not help the other."""
    # No `Pool`, whose processes may have no children: on a GPU, images are prepared by some.
    threads, context = torch.get_num_threads(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_start, initargs=(threads,)) as pool:
        return pool.submit(measure, *args).result()


def _start(threads: int) -> None:
    quieten()
    torch.set_num_threads(threads)


def quieten() -> None:
    """No bars and no advice of the libraries between our lines."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")  # a default, on a CPU


def spread(values: Sequence[float], unit: str = "", digits: int = 1) -> str:
    """Median and range."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle}{unit} [{low}, {high}]"
