"""Logit margins of the training images, averaged over the epochs: the area under the margin (arXiv:2001.10528).

The margin of an image is the logit of its label minus the largest other logit. The other images of a class teach the
network the class, and an image with a wrong label is the last to be fitted, so its mean margin is low.

The margins come from the forward passes of the training, so they cost a few operations on the logits of each step, and
nothing waits for the device. Images are as the network gets them: cropped and augmented.
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline import distributed
from pipeline.evaluation.audit.labels import Evidence, of_margins

logger = logging.getLogger(__name__)

MARGINS = "margins.safetensors"
"""The file of a checkpoint that holds the margins until then."""

FINAL_MARGINS = "final_margins.safetensors"
"""The file of the best checkpoint that holds the margins until the end of training."""

ROWS = "rows"
"""The key of a batch that holds the row of each image."""


class NumberedRows(torch.utils.data.Dataset[Any]):
    """Training images that know their row: each batch has `rows` too."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """Return what the dataset returns for these rows: a list of rows, or a complete batch."""
        found = self.dataset.__getitems__(rows)
        if isinstance(found, dict):
            # Not blocking, or every step would wait until the device has finished the one before.
            return found | {ROWS: torch.tensor(rows).to(found["labels"].device, non_blocking=True)}
        return [row | {ROWS: number} for row, number in zip(found, rows, strict=True)]


class Margins(TrainerCallback):
    """Sums the margins of each training image. All ranks call it, and each sees its own images."""

    def __init__(self, images: int) -> None:
        """Start with no margin.

        Args:
            images: Number of training images.
        """
        self._total = _zeros(images)  # of all ranks, until the last exchange
        self._own: dict[str, Tensor] | None = None  # of this rank since then, on its device

    def add(self, rows: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a training batch.

        Args:
            rows: Rows of the images, shape (batch,).
            logits: Shape (batch, classes).
            labels: Classes, shape (batch,).
        """
        if self._own is None:
            self._own = {name: each.to(logits.device) for name, each in _zeros(len(self._total["count"])).items()}
        logits = logits.detach().float()
        given = logits.gather(1, labels[:, None])
        highest, rival = logits.scatter(1, labels[:, None], -torch.inf).max(dim=1)
        self._own["sum"].index_add_(0, rows, given[:, 0] - highest)
        self._own["count"].index_add_(0, rows, torch.ones_like(highest))
        self._own["rival"][rows] = rival

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Exchange the margins before a checkpoint is saved."""
        del args, state, kwargs
        if control.should_save:
            self._exchange()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Exchange the margins of an epoch."""
        del args, state, control, kwargs
        self._exchange()

    def evidence(self) -> Evidence | None:
        """Return what the mean margins say about the labels, or None if no image was seen. All ranks must call it."""
        self._exchange()
        count = self._total["count"].numpy()
        if not count.any():
            return None
        margins = np.divide(self._total["sum"].numpy(), count, out=np.full_like(count, np.nan), where=count > 0)
        return of_margins(margins, self._total["rival"].numpy(), float(np.mean(count)))

    def content(self) -> bytes:
        """Return the content of a file with the margins until the last exchange."""
        return save(self._total)

    def restore(self, path: Path) -> None:
        """Continue with the margins in a file of a checkpoint, or with none if it has none for these images."""
        self._own = None
        found: dict[str, Tensor] = {}
        with contextlib.suppress(OSError, SafetensorError):
            found = load_file(path)
        shapes = {name: each.shape for name, each in self._total.items()}
        if {name: each.shape for name, each in found.items()} == shapes:
            self._total = found
        else:
            logger.info("%s has no margins of these images; they start again", path.parent.name)

    def _exchange(self) -> None:
        """Add what all ranks have seen since the last exchange. They have seen different images."""
        own = None if self._own is None else {name: each.cpu() for name, each in self._own.items()}
        for each in filter(None, distributed.all_gather(own)):
            seen = each["count"] > 0
            self._total["rival"][seen] = each["rival"][seen]
            for name in ("sum", "count"):
                self._total[name] += each[name]
        self._own = None


def _zeros(images: int) -> dict[str, Tensor]:
    return {
        "sum": torch.zeros(images),
        "count": torch.zeros(images),
        "rival": torch.zeros(images, dtype=torch.int64),
    }
