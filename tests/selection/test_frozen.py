"""`--auto` keeps the best affordable linear probe if training does not beat it."""

import dataclasses
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.strategy import StrategyArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.labels.read import read_integers
from pipeline.data.report import LoadedSplits
from pipeline.data.sources import load_splits
from pipeline.errors import PipelineError
from pipeline.evaluation.scoring import score
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.probing.baseline import training_features
from pipeline.probing.neighbors import knn_accuracy
from pipeline.selection import frozen
from pipeline.selection.improve import Proposal
from tests.conftest import save_vit


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, LoadedSplits]:
    """Red and blue images of 24 px, and a ViT for 16 px."""
    root = tmp_path_factory.mktemp("frozen")
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for number, name in enumerate(("red", "blue")):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for image in range(12):
                pixels = rng.integers(0, 60, (24, 30, 3), dtype=np.uint8)
                pixels[..., 2 * number] += 150
                PIL.Image.fromarray(pixels).save(folder / f"{image}.png")
    model = save_vit(root / "vit")
    settings = Settings(
        model=ModelArguments(model_name_or_path=str(model)),
        data=DataArguments(dataset_name=str(root / "data")),
        trainer=FineTuningArguments(output_dir=str(root / "run"), precision="fp32", dataloader_num_workers=0),
    )
    return settings, load_splits(settings.data)


def propose(case: tuple[Settings, LoadedSplits], *given: str) -> Proposal:
    """Propose a probe in place of a model that finds one of both classes."""
    settings, splits = dataclasses.replace(case[0], given=frozenset(given)), case[1]
    trained = build_classifier(settings.model, class_names=["blue", "red"], seed=0)
    with torch.no_grad():
        trained.head.weight.zero_()
    proposal = frozen.propose(trained, splits, settings)
    assert proposal is not None
    return proposal


def test_the_proposed_model_has_the_accuracy_that_it_promises(case: tuple[Settings, LoadedSplits]) -> None:
    proposal = propose(case)
    assert (proposal.before, proposal.after) == (0.5, 1.0)
    scored = score(proposal.accept(), case[1]["validation"], LoaderOptions(), name="validation")
    assert scored.accuracy == proposal.after == proposal.results["auto_probe_eval_accuracy"]
    assert proposal.results["auto_trained_eval_accuracy"] == proposal.before


def test_nearest_neighbors_are_fitted_on_the_same_features(
    case: tuple[Settings, LoadedSplits], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    results = propose(case).results
    size, k, accuracy = (results[f"auto_knn_{key}"] for key in ("image_size", "k", "eval_accuracy"))
    settings, splits = case
    names = splits["train"].features["label"].names
    network = build_classifier(
        dataclasses.replace(settings.model, image_size=size), class_names=names, seed=settings.trainer.seed
    )
    features = training_features(network, splits, settings.trainer)
    expected = knn_accuracy(
        features["train"].class_token_and_patches, read_integers(splits["train"]),
        features["validation"].class_token_and_patches, read_integers(splits["validation"]),
    )  # fmt: skip
    assert (k, accuracy) == expected
    assert f"{k} nearest neighbors {100 * accuracy:.2f}%" in caplog.text


def test_higher_resolutions_are_those_that_the_images_fill(
    case: tuple[Settings, LoadedSplits], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    propose(case)
    assert "a linear probe at 16 px reaches" in caplog.text
    assert "a linear probe at 24 px reaches" in caplog.text
    assert "at 32 px" not in caplog.text


def test_a_resolution_of_the_user_is_the_only_one(
    case: tuple[Settings, LoadedSplits], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    assert propose(case, "image_size").results["auto_probe_image_size"] == 16
    assert "24 px" not in caplog.text


def test_a_slow_machine_tries_no_higher_resolution(
    case: tuple[Settings, LoadedSplits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "matmul_rate", lambda *_: 1.0)
    assert propose(case).results["auto_probe_image_size"] == 16


def test_a_probe_is_not_fitted_twice(case: tuple[Settings, LoadedSplits], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pipeline")
    settings, splits = case
    head = dataclasses.replace(settings, strategy=StrategyArguments(strategy="head"))
    fixed = dataclasses.replace(head, given=frozenset(["image_size"]))
    assert propose((head, splits)).results["auto_probe_image_size"] == 24
    assert "at 16 px" not in caplog.text
    trained = build_classifier(settings.model, class_names=["blue", "red"], seed=0)
    assert frozen.propose(trained, splits, fixed) is None


def test_a_network_without_a_linear_head_keeps_the_trained_model(
    case: tuple[Settings, LoadedSplits], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, splits = case
    trained = build_classifier(settings.model, class_names=["blue", "red"], seed=0)

    def fail(*_: Any, **__: Any) -> ImageClassifier:
        raise PipelineError("no linear head: choose another model")

    monkeypatch.setattr(frozen, "build_classifier", fail)
    assert frozen.propose(trained, splits, settings) is None
