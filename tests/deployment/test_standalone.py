"""The program for exported models reads images as the pipeline does, without torch."""

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
from transformers import BitImageProcessor, ViTImageProcessor

from pipeline.deployment import standalone
from pipeline.deployment.preprocessing import read_settings
from pipeline.errors import PipelineError
from pipeline.images.decode import open_image
from pipeline.images.depth import GrayscaleDepth
from pipeline.images.processor import Normalize
from pipeline.models.checkpoint import read_processor
from pipeline.models.uncertainty import Uncertainty
from tests.images.hazards import READABLE, UNREADABLE, encode
from tests.models.families import save, square

AS_IT_IS = {"resize": None, "crop": None, "grayscale_bits": None, "library": "torch"}


def noise(height: int, width: int) -> PIL.Image.Image:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", READABLE)
def test_a_readable_file_has_the_pixels_of_the_pipeline(case: str) -> None:
    data = READABLE[case].data
    expected = np.asarray(open_image({"bytes": data, "path": None}, name="image"))
    assert np.array_equal(standalone.preprocess(data, AS_IT_IS), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_file_is_rejected(case: str) -> None:
    with pytest.raises(Exception, match=r"."):
        standalone.preprocess(UNREADABLE[case].data, AS_IT_IS)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_16_bit_grayscale_is_scaled_by_the_stored_bits(bits: int) -> None:
    data = encode(PIL.Image.fromarray(np.arange(64 * 1024, dtype=np.uint16).reshape(64, 1024)))
    expected = open_image({"bytes": data, "path": None}, name="image", depth=GrayscaleDepth(bits))
    assert np.array_equal(standalone.preprocess(data, AS_IT_IS | {"grayscale_bits": bits}), np.asarray(expected))


@pytest.mark.parametrize("family", ["vit b/16", "deit", "dinov2", "convnext", "timm vit"])
def test_preprocessing_returns_the_pixels_of_the_processor(family: str, tmp_path: Any) -> None:
    save(family, tmp_path)
    processor = read_processor(tmp_path, name=family)
    settings = read_settings(processor, name=family)
    for image in (noise(300, 401), noise(97, 61), noise(12, 15), noise(31, 260)):
        pixels = Normalize(processor).undo(processor(images=[image], return_tensors="pt")["pixel_values"])
        assert np.array_equal(standalone.preprocess(image, settings), pixels[0].permute(1, 2, 0).numpy()), image.size


def test_a_processor_with_other_steps_is_refused() -> None:
    sharp: Any = ViTImageProcessor(size=square(16), resample=PIL.Image.Resampling.LANCZOS)
    with pytest.raises(PipelineError, match=r"processor of photos \(ViTImageProcessor\) does more than resize"):
        read_settings(sharp, name="photos")
    pads: Any = BitImageProcessor(size={"shortest_edge": 16}, crop_size=square(32), do_center_crop=True)
    assert read_settings(pads, name="photos")["crop"] == [32, 32]


def test_a_file_that_export_did_not_write_is_refused(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, [1])
    node = onnx.helper.make_node("Identity", ["pixels"], ["logits"])
    result = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.UINT8, [1])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "graph", [value], [result]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="was not written by `vit-pipeline export`"):
        standalone.ExportedClassifier(tmp_path / "other.onnx")
    onnx.helper.set_model_props(model, {standalone.KEY: '{"format": 99}'})
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(ValueError, match=r"has format 99, but this program reads format 1: use the predict\.py"):
        standalone.ExportedClassifier(tmp_path / "newer.onnx")


def test_a_picture_in_memory_and_its_bytes_give_the_same_pixels() -> None:
    image, content = noise(20, 30), io.BytesIO()
    image.save(content, "PNG")
    settings = AS_IT_IS | {"resize": [16], "filter": "bilinear", "crop": [16, 16]}
    assert np.array_equal(standalone.preprocess(image, settings), standalone.preprocess(content.getvalue(), settings))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 1.0])
def test_prediction_sets_are_those_of_the_run(threshold: float) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(6, 0.4), size=50)
    probabilities[0] = 1 / 6  # of equally likely classes, the first one is the more likely one
    members = Uncertainty(0.9, 0.95, 50, aps_threshold=threshold).aps_sets(probabilities)
    for row, inside in zip(probabilities, members, strict=True):
        found = standalone.aps_set(row, threshold)
        assert set(found) == set(np.flatnonzero(inside))
        assert list(row[found]) == sorted(row[found], reverse=True)
