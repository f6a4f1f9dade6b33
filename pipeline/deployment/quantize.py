"""An fp32 ONNX file -> int8: static quantization of the matrix products and convolutions.

Everything else stays in float: softmax, normalization layers, activations, residual sums, and the products of
attention, whose operands are both activations. So do the first layer and the head, on which accuracy depends most for
little time, and the out-of-distribution score. Weights have one scale per output channel and 7 bits: with 8, the
integer products of x86 processors without VNNI overflow.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.deployment.graph import UNKNOWN, quiet, store

_QUANTIZED = ("Conv", "Gemm", "MatMul")
_BATCH = 8  # images per forward pass; the calibrator holds all activations of a batch


def quantize(source: Path, target: Path, pixels: Sequence[NDArray[np.uint8]], *, metadata: Mapping[str, Any]) -> None:
    """Quantize a file with activation ranges from images.

    Args:
        source: The fp32 file.
        target: The int8 file.
        pixels: Preprocessed images (height, width, 3).
        metadata: Settings that are stored in the file.
    """
    import onnx_ir
    import onnxruntime
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    onnxruntime.set_default_logger_severity(3)  # errors only
    with quiet():
        quantize_static(
            source,
            target,
            _Batches(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_float_nodes(onnx_ir.load(source)),
        )
        program = onnx_ir.load(target)
        onnx_ir.external_data.load_to_model(program)
    store(program, target, metadata)


def _float_nodes(program: Any) -> list[str]:
    """Return the names of the products of two activations, the first layer, the head, and the products of the score."""
    products = [node for node in program.graph if node.op_type in _QUANTIZED]
    layers = [node for node in products if any(value is not None and value.is_initializer() for value in node.inputs)]
    activations = [node for node in products if node not in layers]
    score = [node for node in layers if any((value.name or "").startswith(UNKNOWN) for value in node.inputs if value)]
    head = next(value for value in program.graph.outputs if value.name == "logits").producer()
    while head.op_type not in _QUANTIZED:
        head = head.inputs[0].producer()
    return [node.name for node in (*activations, layers[0], head, *score)]


class _Batches:
    """The images as the calibrator of ONNX Runtime reads them."""

    def __init__(self, pixels: Sequence[NDArray[np.uint8]]) -> None:
        self.batches: Iterator[dict[str, Any]] = (
            {"pixels": np.stack(pixels[start : start + _BATCH])} for start in range(0, len(pixels), _BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)
