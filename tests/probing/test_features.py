"""Frozen features are what the head reads, are computed once, and are never read for another model or other images."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.data.sources import load_splits
from pipeline.images.transforms import EvalTransform
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.probing.features import Features, extract

NAMES = ["blue", "green", "red"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def built(tiny_vit: Path) -> ImageClassifier:
    return build_classifier(ModelArguments(str(tiny_vit)), class_names=NAMES, seed=0)


def load(folder: Path) -> datasets.Dataset:
    return load_splits(DataArguments(dataset_name=str(folder)))["train"]


def run(classifier: ImageClassifier, split: datasets.Dataset, precision: Any = "fp32") -> tuple[Features, int]:
    """Return the features, and the number of forward passes."""
    calls: list[int] = []
    hook = classifier.model.register_forward_hook(lambda *_: calls.append(1))
    found = extract(classifier, {"train": split}, LoaderOptions(8), precision=precision)
    hook.remove()
    return found["train"], len(calls)


def test_the_head_turns_the_features_into_the_logits(cache: Path, built: ImageClassifier, photos: Path) -> None:
    del cache
    model: Any = built.model
    split = load(photos)
    features, _ = run(built, split)
    rows = EvalTransform(built.processor)(split[:])
    with torch.no_grad():
        logits = model.eval()(torch.stack(rows["pixel_values"])).logits
        hidden = model.vit(torch.stack(rows["pixel_values"])).last_hidden_state
        assert torch.allclose(built.head(torch.from_numpy(features.head)), logits, atol=1e-5)
    assert np.allclose(features.by_kind["class_token"], hidden[:, 0], atol=1e-5)
    assert np.allclose(features.by_kind["patch_mean"], hidden[:, 1:].mean(1), atol=1e-5)
    assert features.class_token_and_patches.shape == (36, 64)


def test_the_network_is_unchanged_and_a_second_call_reads_the_cache(
    cache: Path, built: ImageClassifier, photos: Path
) -> None:
    del cache
    model: Any = built.model
    model.train()
    next(model.parameters()).requires_grad_(False)
    state = torch.get_rng_state()
    first, calls = run(built, load(photos))
    assert calls == 5
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    again, calls = run(built, load(photos))
    assert calls == 0
    assert np.array_equal(first.head, again.head)


def other_weights(model: Any, processor: Any, folder: Path) -> None:
    del processor, folder
    torch.nn.init.constant_(model.vit.layernorm.bias, 0.5)


def other_mean(model: Any, processor: Any, folder: Path) -> None:
    del model, folder
    processor.image_mean = [0.1, 0.2, 0.3]


def changed_file(model: Any, processor: Any, folder: Path) -> None:
    """Change the content of a file, but not its name and size."""
    del model, processor
    one, other = sorted((folder / "train" / "red").iterdir())[:2]
    content = one.read_bytes()
    other.write_bytes(content)
    os.utime(other, ns=(1, 1))


@pytest.mark.parametrize("change", [other_weights, other_mean, changed_file])
def test_other_weights_processors_and_files_are_computed_again(
    cache: Path, built: ImageClassifier, make_folder: Callable[..., Path], change: Callable[..., None]
) -> None:
    del cache
    folder = make_folder(train=4, validation=2)
    before, _ = run(built, load(folder))
    change(built.model, built.processor, folder)
    after, calls = run(built, load(folder))
    assert calls > 0
    assert not np.array_equal(before.head, after.head)


def test_the_cache_depends_on_the_precision_and_not_on_the_head(
    cache: Path, built: ImageClassifier, photos: Path
) -> None:
    del cache
    model: Any = built.model
    run(built, load(photos))
    assert run(built, load(photos), "bf16")[1] > 0
    torch.nn.init.zeros_(model.classifier.weight)
    assert run(built, load(photos))[1] == 0


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-4] + b"\0\0\x80?", lambda _: b""]
)
def test_a_corrupt_file_is_computed_again(
    cache: Path,
    built: ImageClassifier,
    photos: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    first, _ = run(built, load(photos))
    (file,) = (cache / "vit-pipeline" / "features").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again, calls = run(built, load(photos))
    assert calls == 5
    assert "is corrupt; computing the features again" in caplog.text
    assert np.array_equal(first.head, again.head)
    assert run(built, load(photos))[1] == 0


def test_a_cache_that_cannot_be_written_gives_one_warning(
    tmp_path: Path,
    built: ImageClassifier,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    split = load(photos)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    assert run(built, split)[0].head.shape == (36, 32)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "set HF_DATASETS_CACHE to a writable folder with free space" in warnings[0]
