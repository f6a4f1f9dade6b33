"""`ImageClassifier`: a network and its image processor in one value."""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import nn
from transformers import PreTrainedModel

from pipeline import hub
from pipeline.data.bad_images import describe_skipped
from pipeline.errors import PipelineError
from pipeline.images.processor import ImageProcessor, input_size, makes_one_size
from pipeline.models import checkpoint, prediction, resolution
from pipeline.models.head import head_names, linear_head, no_linear_head
from pipeline.models.inference import LoaderOptions, stream_inference
from pipeline.models.uncertainty import Uncertainty
from pipeline.models.verdicts import judge, verdict_columns
from pipeline.performance.device import pick_device

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class ImageClassifier:
    """A network that classifies images, and the image processor that prepares them.

    What depends on the architecture only (the head, the input size) is found once and cached.

    Attributes:
        model: The network, an image classifier of transformers.
        processor: Its image processor.
        uncertainty: What is known of its confidence: calibration, prediction sets, unknown images. None: nothing.
    """

    model: PreTrainedModel
    processor: ImageProcessor
    uncertainty: Uncertainty | None = None

    @classmethod
    def load(cls, name: str | Path, *, revision: str = "main") -> "ImageClassifier":
        """Load a run folder, a local model folder, or a Hub model, in fp32 on the accelerator if there is one.

        Args:
            name: The folder, or the Hub id.
            revision: Branch, tag or commit of a Hub model.

        Raises:
            PipelineError: If the model is missing, is not an image classifier, lacks any weight, or does not support
                the images of its image processor.
        """
        name = str(name)
        folder = hub.find_model(name, revision=revision)
        config = checkpoint.read_config(folder, name=name)
        processor = checkpoint.read_processor(folder, name=name)
        if not makes_one_size(processor, name=name):
            raise PipelineError(
                f"the image processor of {name} makes images of different sizes, which cannot be batched: give its "
                'preprocessor_config.json a "size" with height and width'
            )
        model, missing = checkpoint.read_model(folder, config, name=name)
        if lost := sorted(missing - head_names(model)):
            raise PipelineError(
                f"{name} lacks {len(lost)} weights of its backbone, first {lost[0]}: download or copy its files again"
            )
        if missing:
            raise PipelineError(
                f"{name} has no trained head: fine-tune it first with `train --model_name_or_path {name}`"
            )
        resolution.check_input(model, processor, name=name)
        network: Any = model  # the decorated `to` of transformers has lost its type
        uncertainty = Uncertainty.read(folder, name=name, classes=len(config.id2label or {}))
        return cls(network.to(pick_device()).eval(), processor, uncertainty)

    def save(self, folder: Path) -> None:
        """Write config, weights and image processor where `pipeline("image-classification", model=folder)` finds them.

        Raises:
            PipelineError: If the folder cannot be written, or the disk is full.
        """
        checkpoint.save_model(self.model, self.processor, folder)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        names = self.model.config.id2label or {}
        return [str(name) for _, name in sorted(names.items())]

    def rename_classes(self, names: Sequence[str]) -> None:
        """Set the names of the classes, in the order of the logits."""
        assert len(set(names)) == len(self.class_names)
        self.model.config.id2label = dict(enumerate(names))
        self.model.config.label2id = {name: index for index, name in enumerate(names)}

    @functools.cached_property
    def input_size(self) -> tuple[int, int]:
        """Height and width, in pixels, of the images that the network receives."""
        return input_size(self.processor)

    @functools.cached_property
    def head_names(self) -> set[str]:
        """Names of the weights of the head."""
        return head_names(self.model)

    @functools.cached_property
    def head(self) -> nn.Linear:
        """The linear layer that computes the logits.

        Raises:
            PipelineError: If the head has several layers, or is not linear.
        """
        return linear_head(self.model, self.head_names)

    def logits_and_features(self, pixel_values: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the logits (batch, classes) and what the head reads (batch, width), from one forward pass.

        Args:
            pixel_values: From the image processor, shape (batch, 3, height, width).

        Raises:
            PipelineError: If the head is not a single linear layer that reads one vector per image and returns the
                logits.
        """
        seen: list[NDArray[np.float32]] = []
        hook = self.head.register_forward_hook(
            lambda _, inputs, output: seen.extend(each.detach().float().cpu().numpy() for each in (*inputs, output))
        )
        try:
            logits = self.logits(pixel_values)
        finally:
            hook.remove()
        if len(seen) != 2 or seen[0].ndim != 2 or not np.array_equal(seen[1], logits, equal_nan=True):
            raise no_linear_head(self.model, "its head does not turn one vector per image into the logits")
        return logits, seen[0]

    @torch.no_grad()  # not inference_mode: some networks keep a tensor of their first forward pass
    def logits(self, pixel_values: torch.Tensor) -> NDArray[np.float32]:
        """Return the logits (batch, classes) of pixel values (batch, 3, height, width) from the image processor."""
        output: Any = self.model(pixel_values=pixel_values.to(self.model.device, torch.float32))
        array: NDArray[np.float32] = output.logits.float().cpu().numpy()
        return array

    @torch.no_grad()
    def head_logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits (batch, classes) for what the head reads (batch, width).

        Raises:
            PipelineError: If the head is not a single linear layer.
        """
        logits: torch.Tensor = self.head(torch.from_numpy(features).to(self.model.device))
        return logits.float().cpu().numpy()

    def predict(
        self,
        images: "str | Path | Image | NDArray[Any] | Iterable[str | Path | Image | NDArray[Any]]",
        *,
        top_k: int = 5,
        batch_size: int = 32,
        bad_images: Literal["fail", "skip"] = "fail",
        progress: bool = False,
    ) -> pd.DataFrame:
        """Return the most likely classes of images.

        Args:
            images: One image or several: paths of files, folders (with all images below them) or glob patterns, PIL
                images, or uint8 arrays with shape (height, width, 3) or (height, width).
            top_k: Number of classes per image.
            batch_size: Images per forward pass.
            bad_images: What to do with images that cannot be read: raise an error, or skip them with a warning.
            progress: Whether to show a progress bar.

        Returns:
            One row for each image and rank: `image` (its path, or its position in `images`), `rank` (from 1), `label`,
            `probability`, and what the model stores of its confidence, see `verdicts.verdict_columns`.

        Raises:
            PipelineError: If no image is found, or an image cannot be read and `bad_images` is `fail`.
        """
        named = prediction.find_images(images)
        options = LoaderOptions(batch_size, progress=progress)
        batches = list(self.rank_batches(named, options, top_k=top_k, fail=bad_images == "fail"))
        if text := describe_skipped([problem for batch in batches for problem in batch.problems if problem]):
            logger.warning("%s", text)
        rows = (row for batch in batches for row in prediction.ranked_rows(batch, self.class_names))
        return pd.DataFrame(rows, columns=list(self.columns))

    @property
    def columns(self) -> dict[str, str]:
        """The columns of a table of predictions, and their types (see `growing_table`)."""
        return prediction.COLUMNS | verdict_columns(self.uncertainty)

    def rank_batches(
        self,
        named: Sequence[tuple[str | int, prediction.Source]],
        options: LoaderOptions,
        *,
        top_k: int,
        fail: bool,
    ) -> Iterator[prediction.Ranked]:
        """Yield the most likely classes of each batch of images as soon as they are known, on all ranks.

        Args:
            named: The images, from `prediction.find_images`.
            options: How the images are loaded.
            top_k: Number of classes per image.
            fail: Whether an image that cannot be read raises an error.

        Raises:
            BadImageError: If an image cannot be read and `fail` is true.
        """
        top_k = min(top_k, len(self.class_names))

        def rank(batch: dict[str, Any]) -> prediction.Ranked:
            features = None
            if self.uncertainty is not None and self.uncertainty.ood is not None:
                logits, features = self.logits_and_features(batch["pixel_values"])
            else:
                logits = self.logits(batch["pixel_values"])
            best = torch.from_numpy(logits).softmax(dim=1).topk(top_k, dim=1)
            verdicts = judge(self.uncertainty, logits, features, best.indices.numpy())
            return prediction.Ranked(batch["names"], batch["problems"], best.values, best.indices, verdicts)

        rows = prediction.ImageRows(named, self.processor, fail=fail)
        return stream_inference(
            self.model, rows, rank, options, description="predict", collate_fn=prediction.collate_rows
        )
