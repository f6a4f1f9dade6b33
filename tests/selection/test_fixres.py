"""FixRes: of two sizes the one that scores better on validation is taken, and what has one size only is refused."""

import io
from typing import Any, cast

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    LevitConfig,
    LevitForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from pipeline.arguments.model import ModelArguments
from pipeline.arguments.strategy import AdaptationArguments
from pipeline.errors import PipelineError
from pipeline.images.processor import ImageProcessor, input_size
from pipeline.models.build import build_model
from pipeline.selection import fixres
from tests.conftest import save_vit

IMAGES, CLASSES, SIDE = 60, ["a", "b", "c", "d"], 32
LOADING: dict[str, Any] = {"batch_size": 16, "num_workers": 0, "progress": False}
Network = tuple[ImageProcessor, PreTrainedModel]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Weights so large that the class depends on the pixels, and on how many there are."""
    folder = save_vit(tmp_path_factory.mktemp("vit"), initializer_range=0.5)
    return build_model(ModelArguments(str(folder), image_size=SIDE), class_names=CLASSES, seed=0)


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    rng, rows = np.random.default_rng(0), []
    for _ in range(IMAGES):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(content, "PNG")
        rows.append({"bytes": content.getvalue(), "path": None})
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=CLASSES), index=datasets.Value("int64")
    )
    columns = {"image": rows, "label": [0] * IMAGES, "index": list(range(IMAGES))}
    return datasets.Dataset.from_dict(columns, features=features)


def classes(model: PreTrainedModel, side: int, split: datasets.Dataset) -> list[int]:
    """What transformers itself says at that size, its table interpolated at every step."""
    pixels = ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.4] * 3, image_std=[0.3] * 3, resample=3
    )
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in split["image"]]
    network: Any = model.eval()
    with torch.no_grad():
        seen = pixels(images=images, return_tensors="pt")["pixel_values"]
        numbers: list[int] = network(seen, interpolate_pos_encoding=True).logits.argmax(1).tolist()
    return numbers


@pytest.mark.parametrize("best", [32, 36])
def test_the_size_that_scores_better_is_taken(vit: Network, split: datasets.Dataset, best: int) -> None:
    processor, model = vit
    right = classes(model, best, split)
    assert all(classes(model, side, split) != right for side in {32, 36} - {best})
    labelled = split.remove_columns("label").add_column("label", right)
    taken, its = fixres.find_test_size(model, processor, labelled, **LOADING)
    assert input_size(its) == (best, best)
    assert taken.config.image_size == best
    assert classes(taken, best, split) == right
    assert input_size(processor) == (SIDE, SIDE)


def test_of_sizes_that_score_alike_the_smallest_is_taken(vit: Network, split: datasets.Dataset) -> None:
    processor, model = vit
    said = zip(*(classes(model, side, split) for side in (32, 36)), strict=True)
    wrong = [min(set(range(4)) - set(numbers)) for numbers in said]
    labelled = split.remove_columns("label").add_column("label", wrong)
    taken, its = fixres.find_test_size(model, processor, labelled, **LOADING)
    assert taken is model
    assert its is processor


def test_a_convolutional_network_keeps_its_weights(split: datasets.Dataset, vit: Network) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 4}
    model = ResNetForImageClassification(ResNetConfig(**shape, layer_type="basic"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taken, its = fixres.find_test_size(model, vit[0], split, **LOADING)
    assert input_size(its)[0] in (32, 37)
    assert all(torch.equal(tensor, before[name]) for name, tensor in taken.state_dict().items())


def test_a_network_of_one_size_stays_as_it_is(
    vit: Network, split: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: dict[str, Any] = {"image_size": SIDE, "hidden_sizes": [16, 24, 32], "depths": [1, 1, 1], "patch_size": 4}
    heads: dict[str, Any] = {"num_attention_heads": [2, 2, 2], "key_dim": [8, 8, 8], "num_labels": 4}
    model = LevitForImageClassification(LevitConfig(**sizes, **heads))  # its attention has a bias for each place
    taken, its = fixres.find_test_size(model, vit[0], split, **LOADING)
    assert taken is model
    assert its is vit[0]
    assert "levit takes no images of 36 pixels: 32 stay" in caplog.text


def test_the_head_strategy_is_refused() -> None:
    with pytest.raises(PipelineError, match="leave it out"):
        AdaptationArguments(strategy="head", fixres=True)


def test_images_that_are_no_squares_are_refused(vit: Network) -> None:
    with pytest.raises(PipelineError, match="no squares"):
        fixres.check(vit[1], cast(ImageProcessor, ViTImageProcessor(size={"height": 32, "width": 40})))
