"""A classifier -> ONNX files: uint8 pixels in, logits and the score of unknown images out.

Normalization and the out-of-distribution score are part of the graph. `transformers.exporters` traces it, because it
repairs what torch.onnx alone does not convert in networks of transformers.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from pipeline.deployment.standalone import KEY
from pipeline.errors import PipelineError
from pipeline.images.processor import Normalize
from pipeline.models.checkpoint import family
from pipeline.models.classifier import ImageClassifier
from pipeline.models.uncertainty import OutOfDistribution

Precision = Literal["fp32", "fp16", "int8"]

UNKNOWN = "unknown_"
"""First part of the names of the tensors that only the out-of-distribution score needs."""
_MAX_BYTES = 1_800_000_000  # a protobuf file holds at most 2 GB; the weights of larger models get their own file


class DeployedNetwork(nn.Module):
    """A copy of a network on the CPU, with normalization in front and the out-of-distribution score behind it."""

    scale: Tensor
    shift: Tensor
    unknown_center: Tensor
    unknown_whitening: Tensor
    unknown_means: Tensor
    unknown_lengths: Tensor

    def __init__(self, classifier: ImageClassifier, dtype: torch.dtype) -> None:
        """Copy a network.

        Args:
            classifier: The network, its image processor and what is stored of its confidence.
            dtype: What the network computes in. Normalization and score use fp32.
        """
        super().__init__()
        network: Any = copy.deepcopy(classifier.model)
        self.network, self.dtype = network.cpu().to(dtype).eval(), dtype
        self.features: Tensor | None = None
        normalize = Normalize(classifier.processor)
        self.register_buffer("scale", normalize.scale.flatten())
        self.register_buffer("shift", normalize.shift.flatten())
        ood = classifier.uncertainty.ood if classifier.uncertainty is not None else None
        self.normalizes_features = ood is not None and ood.normalize
        if ood is not None:
            self._add_score(ood, ImageClassifier(self.network, classifier.processor).head)

    def _add_score(self, ood: OutOfDistribution, head: nn.Module) -> None:
        def remember(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.features = inputs[0]

        head.register_forward_pre_hook(remember)
        means = torch.from_numpy(ood.means)
        self.register_buffer(f"{UNKNOWN}center", torch.from_numpy(ood.center))
        self.register_buffer(f"{UNKNOWN}whitening", torch.from_numpy(ood.whitening))
        self.register_buffer(f"{UNKNOWN}means", means.T.contiguous())
        self.register_buffer(f"{UNKNOWN}lengths", means.double().square().sum(1).float())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `logits` (batch, classes) and, if the model stores such a score, `unknown_score` (batch,).

        Args:
            pixels: (batch, height, width, 3) uint8.
        """
        values = (pixels.float() * self.scale - self.shift).permute(0, 3, 1, 2)
        outputs = {"logits": self.network(pixel_values=values.to(self.dtype)).logits.float()}
        if self.features is not None:
            rows, self.features = self.features.float(), None
            if self.normalizes_features:
                rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
            rows = (rows - self.unknown_center) @ self.unknown_whitening
            nearest = (self.unknown_lengths - 2 * rows @ self.unknown_means).amin(1) + rows.square().sum(1)
            outputs["unknown_score"] = nearest.clamp(min=0)
        return outputs


def write_graph(classifier: ImageClassifier, path: Path, *, dtype: torch.dtype, metadata: Mapping[str, Any]) -> None:
    """Write a network as ONNX with a dynamic batch size.

    Args:
        classifier: The network.
        path: The file. Weights of more than 1.8 GB are written to a second file with `.data` after its name.
        dtype: torch.float32 or torch.float16.
        metadata: Settings that are stored in the file.

    Raises:
        PipelineError: If the network cannot be exported.
    """
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    height, width = classifier.input_size
    network: Any = DeployedNetwork(classifier, dtype)
    example = {"pixels": torch.zeros(2, height, width, 3, dtype=torch.uint8)}
    shapes = {"pixels": {0: torch.export.Dim("batch")}}
    try:
        with quiet():
            program: Any = OnnxExporter().export_program(
                network, example, OnnxConfig(dynamic=True, dynamic_shapes=shapes)
            )[0]
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise PipelineError(
            f"a {family(classifier.model.config)} cannot be exported to ONNX ({type(error).__name__}: {reason}): "
            "choose another model"
        ) from error
    store(program, path, metadata)


def store(program: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a graph of onnx_ir with its metadata."""
    import onnx_ir

    program.metadata_props[KEY] = json.dumps(metadata, ensure_ascii=False)
    size = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    onnx_ir.save(program, str(path), external_data=f"{path.name}.data" if size > _MAX_BYTES else None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard progress, warnings and log lines of torch, onnxscript and ONNX Runtime: the comparison decides."""
    handler, verbosity = logging.NullHandler(), transformers_logging.get_verbosity()
    logging.getLogger().addHandler(handler)  # without a handler, logging.warning() would install one for good
    before = logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        transformers_logging.set_verbosity(verbosity)
        logging.getLogger().removeHandler(handler)
