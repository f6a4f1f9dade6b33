"""FixRes: the better of two resolutions is kept, and networks with a fixed resolution are rejected."""

import io
from typing import Any

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
from pipeline.arguments.selection import SelectionArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.strategy import StrategyArguments
from pipeline.errors import PipelineError
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from pipeline.selection import fixres
from pipeline.selection.improve import Propose, improve
from tests.conftest import save_vit

IMAGES, CLASSES, SIDE = 60, ["a", "b", "c", "d"], 32
STEPS: list[tuple[str, Propose]] = [("--fixres", fixres.propose)]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> ImageClassifier:
    """A ViT with weights so large that the predicted class depends on the pixels and on the resolution."""
    folder = save_vit(tmp_path_factory.mktemp("vit"), initializer_range=0.5)
    return build_classifier(ModelArguments(str(folder), image_size=SIDE), class_names=CLASSES, seed=0)


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
    """Return the classes that transformers predicts at this size, interpolating position embeddings itself."""
    pixels = ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.4] * 3, image_std=[0.3] * 3, resample=3
    )
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in split["image"]]
    network: Any = model.eval()
    with torch.no_grad():
        seen = pixels(images=images, return_tensors="pt")["pixel_values"]
        numbers: list[int] = network(seen, interpolate_pos_encoding=True).logits.argmax(1).tolist()
    return numbers


def kept(classifier: ImageClassifier, split: datasets.Dataset) -> ImageClassifier:
    """Return the classifier that remains after the selection step."""
    return improve(classifier, datasets.DatasetDict(validation=split), Settings(), STEPS)[0]


@pytest.mark.parametrize("best", [32, 36])
def test_the_resolution_with_the_higher_accuracy_is_kept(
    vit: ImageClassifier, split: datasets.Dataset, best: int
) -> None:
    right = classes(vit.model, best, split)
    assert all(classes(vit.model, side, split) != right for side in {32, 36} - {best})
    labeled = split.remove_columns("label").add_column("label", right)
    chosen, results = improve(vit, datasets.DatasetDict(validation=labeled), Settings(), STEPS)
    assert chosen.input_size == (best, best)
    assert chosen.model.config.image_size == best
    assert classes(chosen.model, best, split) == right
    assert vit.input_size == (SIDE, SIDE)
    assert results == {"train_image_size": SIDE}


@pytest.mark.parametrize(("best", "is_better"), [(32, False), (36, True)])
def test_with_refit_head_a_head_for_the_higher_resolution_is_compared(
    vit: ImageClassifier, split: datasets.Dataset, best: int, is_better: bool
) -> None:
    labeled = split.remove_columns("label").add_column(
        "label", classes(vit.model, best, split), feature=split.features["label"]
    )
    splits = datasets.DatasetDict(train=labeled, validation=labeled)
    trained = {name: tensor.clone() for name, tensor in vit.model.state_dict().items()}
    proposal = fixres.propose(vit, splits, Settings(selection=SelectionArguments(refit_head=True)))
    assert proposal is not None
    low, high = both(vit, split)
    assert proposal.before == (1.0 if best == SIDE else pytest.approx(np.mean(np.equal(low, high))))
    assert (proposal.after > proposal.before) == is_better
    assert ("refit_eval_accuracy" in proposal.results) == is_better
    accepted = proposal.accept()
    assert accepted.input_size == (36, 36)
    assert np.mean(np.equal(classes(accepted.model, 36, split), labeled["label"])) == pytest.approx(proposal.after)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in vit.model.state_dict().items())


def both(classifier: ImageClassifier, split: datasets.Dataset) -> list[list[int]]:
    """Return the classes that are predicted at both resolutions."""
    return [classes(classifier.model, side, split) for side in (32, 36)]


def test_equal_accuracy_keeps_the_resolution_of_training(vit: ImageClassifier, split: datasets.Dataset) -> None:
    predicted = zip(*both(vit, split), strict=True)
    wrong = [min(set(range(4)) - set(numbers)) for numbers in predicted]
    labeled = split.remove_columns("label").add_column("label", wrong)
    assert kept(vit, labeled) is vit


def test_a_convolutional_network_keeps_its_weights(split: datasets.Dataset, vit: ImageClassifier) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 4}
    model = ResNetForImageClassification(ResNetConfig(**shape, layer_type="basic"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chosen = kept(ImageClassifier(model, vit.processor), split)
    assert chosen.input_size[0] in (32, 37)
    assert all(torch.equal(tensor, before[name]) for name, tensor in chosen.model.state_dict().items())


@pytest.mark.parametrize(("given", "level"), [({"fixres"}, "WARNING"), (set(), "INFO")])  # --auto chooses it too
def test_a_network_with_a_fixed_resolution_is_kept_with_a_log_line(
    vit: ImageClassifier, split: datasets.Dataset, given: set[str], level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    sizes: dict[str, Any] = {"image_size": SIDE, "hidden_sizes": [16, 24, 32], "depths": [1, 1, 1], "patch_size": 4}
    heads: dict[str, Any] = {"num_attention_heads": [2, 2, 2], "key_dim": [8, 8, 8], "num_labels": 4}
    model = LevitForImageClassification(LevitConfig(**sizes, **heads))  # its attention biases belong to a fixed grid
    levit = ImageClassifier(model, vit.processor)
    settings = Settings(given=frozenset(given))
    assert fixres.propose(levit, datasets.DatasetDict(validation=split), settings) is None
    line = next(record for record in caplog.records if "--fixres" in record.message)
    assert (line.levelname, line.message) == (level, "--fixres: levit does not support 36 px input; keeping 32 px")


def test_fixres_cannot_be_combined_with_the_head_strategy() -> None:
    with pytest.raises(PipelineError, match=r"remove --fixres$"):
        Settings(strategy=StrategyArguments(strategy="head"), selection=SelectionArguments(fixres=True))


def test_images_that_are_not_square_are_rejected(vit: ImageClassifier) -> None:
    processor: Any = ViTImageProcessor(size={"height": 32, "width": 40})
    with pytest.raises(PipelineError, match="images that are not square: remove --fixres"):
        fixres.check(ImageClassifier(vit.model, processor))
