"""The columns of a table of predictions are those that the model stores, computed from its logits and features."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from pipeline import predict
from pipeline.models.classifier import ImageClassifier
from pipeline.models.uncertainty import OutOfDistribution, Uncertainty
from tests.conftest import noisy_image

COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)]
ADDED = ["calibrated_probability", "prediction_set", "abstain", "unknown"]


@pytest.fixture(scope="module")
def classifier(tiny_vit: Path) -> ImageClassifier:
    """A ViT of which half of the four images are unknown, and some answers are withheld."""
    loaded = ImageClassifier.load(tiny_vit)
    pixels = loaded.processor(images=[noisy_image(c, 1) for c in COLORS], return_tensors="pt")["pixel_values"]
    logits, features = loaded.logits_and_features(pixels)
    assert np.array_equal(logits, loaded.logits(pixels))
    ood = OutOfDistribution(False, features.mean(axis=0), np.eye(32, dtype=np.float32), np.zeros((1, 32), np.float32))
    ood = dataclasses.replace(ood, threshold=float(np.median(ood.scores(features))))
    confidence = softmax(logits.astype(float) / 0.5, axis=1).max(axis=1)
    stored = Uncertainty(0.9, 0.95, 50, 0.5, 0.5, 0.6, float(np.sort(confidence)[1]), ood)
    return dataclasses.replace(loaded, uncertainty=stored)


def test_the_columns_are_computed_from_one_forward_pass(classifier: ImageClassifier) -> None:
    passes: list[int] = []
    hook = classifier.model.register_forward_hook(lambda *_: passes.append(1))
    images = [noisy_image(c, 1) for c in COLORS]
    table = classifier.predict(images, top_k=2)
    hook.remove()
    assert len(passes) == 1
    assert list(table.columns) == ["image", "rank", "label", "probability", *ADDED]
    pixels = classifier.processor(images=images, return_tensors="pt")["pixel_values"]
    logits, features = classifier.logits_and_features(pixels)
    stored = classifier.uncertainty
    assert stored is not None
    assert stored.ood is not None
    for image, rows in table.groupby("image"):
        own = softmax(logits[image].astype(float) / 0.5)
        order = np.argsort(-own)
        assert rows["label"].tolist() == [classifier.class_names[i] for i in order[:2]]
        assert rows["calibrated_probability"].tolist() == pytest.approx(own[order[:2]].tolist())
        assert rows["probability"].tolist() == pytest.approx(softmax(logits[image])[order[:2]].tolist(), abs=1e-6)
        size = 1 + int((np.cumsum(own[order])[:-1] <= 0.6).sum())
        assert rows["prediction_set"].tolist() == [[classifier.class_names[i] for i in order[:size]]] * 2
        assert rows["abstain"].tolist() == [own.max() < stored.abstain_threshold] * 2
        assert rows["unknown"].tolist() == [stored.ood.scores(features)[image] > stored.ood.threshold] * 2
    assert table["unknown"].sum() == 4
    assert table["abstain"].sum() == 2


def test_only_stored_parts_are_columns(classifier: ImageClassifier) -> None:
    few = dataclasses.replace(classifier, uncertainty=Uncertainty(0.9, 0.95, 20, lac_threshold=0.5, aps_threshold=0.3))
    assert list(few.predict(noisy_image(COLORS[0], 1)).columns)[4:] == ["prediction_set"]
    none = dataclasses.replace(classifier, uncertainty=None)
    assert list(none.predict(noisy_image(COLORS[0], 1)).columns) == ["image", "rank", "label", "probability"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_files_hold_the_same_as_the_data_frame(classifier: ImageClassifier, tmp_path: Path, ending: str) -> None:
    classifier.save(tmp_path / "model")
    assert classifier.uncertainty is not None
    classifier.uncertainty.write(tmp_path / "model")
    for number, color in enumerate(COLORS):
        noisy_image(color, 1).save(tmp_path / f"{number}.png")
    file = tmp_path / f"labels.{ending}"
    table = predict(tmp_path / "model", tmp_path / "*.png", output=str(file), top_k=2)
    if ending == "jsonl":
        read = pd.DataFrame(map(json.loads, file.read_text().splitlines()))
    else:
        read = pd.read_csv(file) if ending == "csv" else pd.read_parquet(file)
        decode = json.loads if ending == "csv" else list
        read["prediction_set"] = [decode(value) for value in read["prediction_set"]]
    assert read.to_dict("list") == table.to_dict("list")
    assert read["unknown"].dtype == bool


def test_it_works_on_a_network_in_training_mode(classifier: ImageClassifier) -> None:
    classifier.model.train()
    assert len(classifier.predict(noisy_image(COLORS[0], 1), top_k=1)) == 1
    assert classifier.model.training
    classifier.model.eval()
    assert torch.is_grad_enabled()
