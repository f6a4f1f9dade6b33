"""Size, file type and brightness are those of the upright decoded image, and they survive the file."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.predictions import read_predictions, write_predictions
from pipeline.evaluation.scoring import score
from pipeline.evaluation.slices.measure import mean_brightness
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    """A turned JPEG, a dark PNG and a white GIF."""
    turned = Image.new("RGB", (60, 30)).getexif()
    turned[0x0112] = 6
    contents = [
        encoded(Image.new("RGB", (60, 30), (255, 0, 0)), "JPEG", exif=turned.tobytes()),
        encoded(Image.new("L", (20, 21), 51), "PNG"),
        encoded(Image.new("RGB", (40, 8), (255, 255, 255)), "GIF"),
    ]
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=["a", "b"]), index=datasets.Value("int64")
    )
    images = [{"bytes": content, "path": None} for content in contents]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0], "index": [0, 1, 2]}, features=features)


def test_scoring_measures_the_upright_image(tiny_vit: Path, split: datasets.Dataset, tmp_path: Path) -> None:
    classifier = ImageClassifier.load(tiny_vit)
    predictions = score(classifier, split, LoaderOptions(batch_size=2), name="test")
    found = predictions.properties
    assert found is not None
    assert found.width.tolist() == [30, 20, 40]
    assert found.height.tolist() == [60, 21, 8]
    assert found.format.tolist() == ["JPEG", "PNG", "GIF"]
    assert found.brightness.tolist() == pytest.approx([0.299, 0.2, 1.0], abs=0.01)
    names = [f"class {number}" for number in range(5)]
    write_predictions(tmp_path / "p.parquet", [predictions], names)
    (read,), _ = read_predictions(tmp_path / "p.parquet")
    assert read.properties is not None
    for name, values in vars(found).items():
        assert getattr(read.properties, name).tolist() == values.tolist()
    assert np.array_equal(read.logits, predictions.logits)


def test_the_brightness_of_a_large_image_is_its_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (333, 517, 3), dtype=np.uint8)
    expected = (pixels.mean((0, 1)) @ [0.299, 0.587, 0.114]) / 255
    assert mean_brightness(Image.fromarray(pixels)) == pytest.approx(expected, abs=0.005)
