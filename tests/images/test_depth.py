"""10 to 12 bits in a 16-bit file keep their gray levels, in every way of reading images."""

import io
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest
from transformers import ViTImageProcessor

from pipeline.arguments.images import ImageArguments
from pipeline.errors import PipelineError
from pipeline.images.decode import open_image
from pipeline.images.depth import GrayscaleDepth, set_depth
from pipeline.images.transforms import Batch, EvalTransform, TrainTransform
from tests.images.hazards import RAMP, encode

LEVELS = np.linspace(0, 2047, 4 * 512).astype(np.uint16).reshape(32, 64)  # every value of 11 bits


def processor_with(bits: Any) -> Any:
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    set_depth(processor, bits)
    return processor


def value(pixels: Any, image_format: str = "PNG") -> dict[str, Any]:
    return {"bytes": encode(PIL.Image.fromarray(pixels), image_format), "path": None}


@pytest.mark.parametrize("bits", range(8, 17))
def test_every_8_bit_level_is_used_by_every_depth(bits: int) -> None:
    values = np.arange(2**bits, dtype=np.uint16)[None]
    scaled = GrayscaleDepth(bits).to_8_bits(values)
    assert scaled.dtype == np.uint8
    np.testing.assert_array_equal(scaled, values >> (bits - 8))
    np.testing.assert_array_equal(np.unique(scaled), np.arange(256))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_larger_values_are_clipped_with_one_warning(dtype: Any, caplog: pytest.LogCaptureFixture) -> None:
    depth = GrayscaleDepth(11)
    for _ in range(2):
        image = open_image(value(np.array([[2047, 2048, 65535]], dtype=dtype), "TIFF"), name="x", depth=depth)
        assert np.asarray(image)[0, :, 0].tolist() == [255, 255, 255]
    (record,) = caplog.records
    assert "clipping a 16-bit grayscale image with values up to 65535 at 2047" in record.getMessage()


def test_an_unknown_depth_is_16_bits_with_one_warning_about_dark_images(caplog: pytest.LogCaptureFixture) -> None:
    depth = GrayscaleDepth()
    np.testing.assert_array_equal(depth.to_8_bits(RAMP), RAMP >> 8)
    depth.to_8_bits(np.array([[0, 4096]]))
    depth.to_8_bits(np.array([[0, 0]]))
    assert not caplog.records
    assert np.array_equal(depth.to_8_bits(LEVELS), LEVELS >> 8)
    depth.to_8_bits(LEVELS)
    (record,) = caplog.records
    assert "dark: a 16-bit grayscale image uses values up to 2047 of 65535" in record.getMessage()
    assert 'add "grayscale_bits": 11' in record.getMessage()


def test_a_known_depth_of_16_bits_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    GrayscaleDepth(16).to_8_bits(LEVELS)
    assert not caplog.records


def test_the_depth_is_saved_with_the_image_processor(tmp_path: Path) -> None:
    processor_with(11).save_pretrained(tmp_path)
    assert GrayscaleDepth.of(ViTImageProcessor.from_pretrained(tmp_path)).bits == 11
    assert GrayscaleDepth.of(processor_with(None)).bits == 16


@pytest.mark.parametrize("bits", [7, 17, "12", 11.0])
def test_an_invalid_depth_is_rejected(bits: Any) -> None:
    with pytest.raises(PipelineError, match=r'"grayscale_bits": .* is invalid: use 8 to 16'):
        GrayscaleDepth.of(processor_with(bits))


def test_training_and_evaluation_see_an_11_bit_image_like_an_8_bit_image() -> None:
    processor = processor_with(11)
    batches: list[Batch] = [
        {"image": [value(pixels)], "label": [0], "index": [3]} for pixels in (LEVELS, (LEVELS >> 3).astype(np.uint8))
    ]
    for transform in (EvalTransform(processor), TrainTransform(processor, ImageArguments(), seed=1)):
        deep, plain = (transform(batch)["pixel_values"][0] for batch in batches)
        assert deep.equal(plain)
        assert len(np.unique(deep)) > 32


def test_decoded_pixels_of_another_depth_have_another_cache_key() -> None:
    keys = [TrainTransform(processor_with(bits), ImageArguments(), seed=1).decode_key for bits in (None, 16, 12, 11)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_heic_is_read_upright_with_its_colors() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    image = PIL.Image.new("RGB", (60, 40), (200, 30, 40))
    image.paste((20, 200, 40), (0, 0, 30, 20))  # green at the top left
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, so green belongs to the top right
    stream = io.BytesIO()
    image.save(stream, "HEIF", exif=exif.tobytes(), quality=95)
    upright = open_image({"bytes": stream.getvalue(), "path": None}, name="IMG.HEIC")
    assert upright.size == (40, 60)
    for place, color in {(38, 2): (20, 200, 40), (2, 2): (200, 30, 40), (38, 58): (200, 30, 40)}.items():
        assert np.abs(np.subtract(cast(tuple[int, ...], upright.getpixel(place)), color)).max() <= 4
