"""The relevance maps of the report: those of the galleries, compared within a budget, and back from their file."""

import io
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.examples import Scored
from pipeline.evaluation.explanations.gallery import (
    BUDGET,
    PASSES,
    Gallery,
    explain_gallery,
    read_gallery,
    write_gallery,
)
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.scoring import score
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from tests.conftest import noisy_image
from tests.evaluation.explanations.planting import CLASSES, new_network
from tests.models.families import save

FAST = 1e6  # images/s


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    contents = []
    for seed in range(12):
        stream = io.BytesIO()
        noisy_image((200, 40, 90), seed, (48, 40)).save(stream, "PNG")
        contents.append({"bytes": stream.getvalue(), "path": None})
    features = datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.ClassLabel(names=[str(number) for number in range(CLASSES)]),
        index=datasets.Value("int64"),
    )
    rows = {"image": contents, "label": [row % CLASSES for row in range(12)], "index": list(range(12))}
    return datasets.Dataset.from_dict(rows, features=features)


def explained(name: str, split: datasets.Dataset, speed: float) -> tuple[Gallery, Predictions]:
    classifier = new_network(name)
    predictions = score(classifier, split, LoaderOptions(), name="test")
    return explain_gallery(classifier, [predictions], {"test": split}, images_per_second=speed), predictions


@pytest.mark.parametrize(("name", "method"), [("vit", "LeGrad"), ("convnext", "LayerCAM")])
def test_the_images_of_the_galleries_get_compared_maps(
    name: str, method: str, split: datasets.Dataset, tmp_path: Path
) -> None:
    gallery, predictions = explained(name, split, FAST)
    scored = Scored.of(predictions)
    rows = {*scored.confident_mistakes(), *scored.uncertain_hits()}
    assert gallery.maps.keys() == {("test", predictions.ids[row]) for row in rows}
    assert (gallery.method, gallery.problem) == (method, "")
    assert all(each.trusted is not None for each in gallery.maps.values())
    for each in gallery.maps.values():
        assert Image.open(io.BytesIO(each.jpeg)).size == (32, 32)
        assert np.isfinite(each.relevance).all()
    write_gallery(tmp_path / "r.parquet", gallery)
    read = read_gallery(tmp_path / "r.parquet")
    assert (read.method, read.problem, list(read.maps)) == (method, "", list(gallery.maps))
    for key, each in gallery.maps.items():
        assert (read.maps[key].jpeg, read.maps[key].trusted) == (each.jpeg, each.trusted)
        assert np.array_equal(read.maps[key].relevance, each.relevance)


def test_a_slow_network_compares_the_first_maps_of_both_galleries(split: datasets.Dataset, tmp_path: Path) -> None:
    gallery, _ = explained("vit", split, 3.5 * PASSES / BUDGET)
    trusted = [each.trusted for each in gallery.maps.values()]
    assert [each is None for each in trusted] == [False] * 3 + [True] * (len(trusted) - 3)
    write_gallery(tmp_path / "r.parquet", gallery)
    assert [each.trusted for each in read_gallery(tmp_path / "r.parquet").maps.values()] == trusted


def test_a_network_that_cannot_be_explained_is_named(split: datasets.Dataset, tmp_path: Path) -> None:
    save("timm vit", tmp_path / "timm")
    classifier = ImageClassifier.load(tmp_path / "timm")
    predictions = score(classifier, split, LoaderOptions(), name="test")
    gallery = explain_gallery(classifier, [predictions], {"test": split}, images_per_second=FAST)
    assert gallery.maps == {}
    assert re.fullmatch(r"explain does not support \w+, whose attention maps cannot be read", gallery.problem)
    write_gallery(tmp_path / "r.parquet", gallery)
    assert read_gallery(tmp_path / "r.parquet") == gallery
