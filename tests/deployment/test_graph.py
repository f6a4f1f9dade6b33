"""Exported graphs compute what the network computes, with any batch size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.deployment.graph import write_graph
from pipeline.deployment.quantize import quantize
from pipeline.deployment.standalone import FORMAT, ExportedClassifier
from pipeline.images.processor import Normalize
from pipeline.models.uncertainty import OutOfDistribution, Uncertainty
from tests.models.building import new_classifier
from tests.models.families import save

pytest.importorskip("onnxscript")

METADATA = {"format": FORMAT, "class_names": ["blue", "green", "red"]}


def pixels_for(size: tuple[int, int], count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "family", ["swin", "convnext", "aimv2 native", "tipsv2"]
)  # torch.onnx alone cannot export Swin
def test_a_family_is_exported_with_a_dynamic_batch_size(family: str, tmp_path: Path) -> None:
    save(family, tmp_path)
    classifier = new_classifier(tmp_path)
    classifier.model.eval()
    write_graph(classifier, tmp_path / "model.onnx", dtype=torch.float32, metadata=METADATA)
    exported = ExportedClassifier(tmp_path / "model.onnx", threads=1)
    for count in (1, 5):
        pixels = pixels_for(classifier.input_size, count)
        expected = classifier.logits(Normalize(classifier.processor)(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
        assert np.allclose(exported.run(pixels)["logits"], expected, atol=1e-5)


def test_the_score_of_unknown_images_is_in_the_graph_and_stays_in_float(tiny_vit: Path, tmp_path: Path) -> None:
    classifier = new_classifier(tiny_vit)
    classifier.model.eval()
    random = np.random.default_rng(0)
    center, whitening, means = (random.normal(size=shape).astype(np.float32) for shape in (32, (32, 32), (3, 32)))
    ood = OutOfDistribution(True, center, whitening, means, threshold=1.0)
    classifier.uncertainty = Uncertainty(0.9, 0.95, 100, ood=ood)
    write_graph(classifier, tmp_path / "model.onnx", dtype=torch.float32, metadata=METADATA)
    pixels = pixels_for((16, 16), 12)
    values = Normalize(classifier.processor)(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    logits, features = classifier.logits_and_features(values)
    outputs = ExportedClassifier(tmp_path / "model.onnx", threads=1).run(pixels)
    assert np.allclose(outputs["logits"], logits, atol=1e-5)
    assert np.allclose(outputs["unknown_score"], ood.scores(features), rtol=1e-3)

    quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", list(pixels), metadata=METADATA)
    int8 = ExportedClassifier(tmp_path / "int8.onnx", threads=1)
    assert int8.class_names == METADATA["class_names"]
    assert 0 < np.max(np.abs(int8.run(pixels)["logits"] - logits)) < 0.5
    onnx = pytest.importorskip("onnx")
    nodes = {node.output[0]: node for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    scaled = [node for node in nodes.values() if node.op_type in ("MatMul", "Gemm", "Conv")]
    quantized = [n for n in scaled if all(nodes[i].op_type == "DequantizeLinear" for i in n.input[:2] if i in nodes)]
    assert len([n for n in quantized if len([i for i in n.input[:2] if i in nodes]) == 2]) == 12  # 6 in each layer
    others = [node for node in nodes.values() if node.op_type in ("Softmax", "LayerNormalization", "Gelu")]
    assert others
    assert all(nodes[i].op_type != "DequantizeLinear" for node in others for i in node.input if i in nodes)
