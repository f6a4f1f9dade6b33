"""`Classifier`: a run or a Hub model, loaded once; images -> logits -> ranked labels. The one load path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from transformers import PreTrainedModel

from pipeline import hub
from pipeline.errors import PipelineError
from pipeline.images.processor import ImageProcessor, makes_one_size
from pipeline.models.checkpoint import read_config, read_model, read_processor
from pipeline.models.head import head_names


@dataclass(frozen=True)
class ImageClassifier:
    """What people deploy, as they deploy it: the saved files, in fp32, through the saved processor."""

    model: PreTrainedModel
    processor: ImageProcessor

    @classmethod
    def load(cls, name: str, *, revision: str = "main") -> "ImageClassifier":
        """Load a run folder, a folder of a model, or a Hub id; on a GPU if there is one.

        Raises:
            PipelineError: If there is no such model, or it is no complete image classifier.
        """
        folder = hub.find_model(name, revision=revision)
        config = read_config(folder, name=name)
        processor = read_processor(folder, name=name)
        if not makes_one_size(processor, name=name):
            raise PipelineError(f"the image processor of {name} makes images of several sizes, and a batch has one")
        model, absent = read_model(folder, config, name=name)
        if lost := sorted(absent - head_names(model)):
            raise PipelineError(
                f"{name} lacks {len(lost)} weights of its backbone, first {lost[0]}: get its files again"
            )
        if absent:
            raise PipelineError(
                f"{name} has no trained head: fine-tune it first, with `train --model_name_or_path {name}`"
            )
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
        network: Any = model  # whose `to` has lost its type in a decorator
        return cls(network.to(device).eval(), processor)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        names = self.model.config.id2label or {}
        return [str(name) for _, name in sorted(names.items())]

    @torch.inference_mode()
    def logits(self, pixel_values: torch.Tensor) -> NDArray[np.float32]:
        """Images of shape (batch, 3, height, width), already transformed, to logits of shape (batch, classes)."""
        output: Any = self.model(pixel_values=pixel_values.to(self.model.device, torch.float32))
        array: NDArray[np.float32] = output.logits.float().cpu().numpy()
        return array

    def rank(self, images: Sequence[Image], *, top_k: int) -> list[list[tuple[str, float]]]:
        """The `top_k` likeliest labels of upright RGB images, each with its probability, best first."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        scores = torch.from_numpy(self.logits(pixels)).softmax(dim=1)
        best = scores.topk(min(top_k, scores.shape[1]), dim=1)
        names = self.class_names
        return [
            [(names[i], p) for i, p in zip(row, values, strict=True)]
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
