"""Frozen features are what the head reads, computed once, and never those of anything else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.data.sources import load_splits
from pipeline.images.processor import ImageProcessor
from pipeline.images.transforms import EvalTransform
from pipeline.models.build import build_model
from pipeline.models.head import find_head
from pipeline.probing.features import Features, extract

NAMES = ["blue", "green", "red"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def built(tiny_vit: Path) -> tuple[ImageProcessor, PreTrainedModel]:
    return build_model(ModelArguments(str(tiny_vit)), class_names=NAMES, seed=0)


def load(folder: Path) -> datasets.Dataset:
    return load_splits(DataArguments(dataset_name=str(folder)))["train"]


def run(
    model: PreTrainedModel, processor: Any, split: datasets.Dataset, precision: Any = "fp32"
) -> tuple[Features, int]:
    """The features, and how often the network was run."""
    calls: list[int] = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    found = extract(
        model, processor, {"train": split}, precision=precision, batch_size=8, num_workers=0, progress=False
    )
    hook.remove()
    return found["train"], len(calls)


def test_through_the_head_they_are_the_logits(cache: Path, built: Any, photos: Path) -> None:
    del cache
    processor, model = built
    split = load(photos)
    features, _ = run(model, processor, split)
    rows = EvalTransform(processor)(split[:])
    with torch.no_grad():
        logits = model.eval()(torch.stack(rows["pixel_values"])).logits
        hidden = model.vit(torch.stack(rows["pixel_values"])).last_hidden_state
        assert torch.allclose(find_head(model)(torch.from_numpy(features.head)), logits, atol=1e-5)
    assert np.allclose(features.by_kind["class_token"], hidden[:, 0], atol=1e-5)
    assert np.allclose(features.by_kind["patch_mean"], hidden[:, 1:].mean(1), atol=1e-5)
    assert features.both.shape == (36, 64)


def test_the_network_is_left_as_it_was_and_a_second_call_runs_it_not_once(
    cache: Path, built: Any, photos: Path
) -> None:
    del cache
    processor, model = built
    model.train()
    next(model.parameters()).requires_grad_(False)
    state = torch.get_rng_state()
    first, calls = run(model, processor, load(photos))
    assert calls == 5
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    again, calls = run(model, processor, load(photos))
    assert calls == 0
    assert np.array_equal(first.head, again.head)


def other_weights(model: Any, processor: Any, folder: Path) -> None:
    del processor, folder
    torch.nn.init.constant_(model.vit.layernorm.bias, 0.5)


def other_mean(model: Any, processor: Any, folder: Path) -> None:
    del model, folder
    processor.image_mean = [0.1, 0.2, 0.3]


def changed_file(model: Any, processor: Any, folder: Path) -> None:
    """Same name, same size, other content."""
    del model, processor
    one, other = sorted((folder / "train" / "red").iterdir())[:2]
    content = one.read_bytes()
    other.write_bytes(content)
    os.utime(other, ns=(1, 1))


@pytest.mark.parametrize("change", [other_weights, other_mean, changed_file])
def test_those_of_anything_else_are_not_taken(
    cache: Path, built: Any, make_folder: Callable[..., Path], change: Callable[..., None]
) -> None:
    del cache
    folder = make_folder(train=4, validation=2)
    processor, model = built
    before, _ = run(model, processor, load(folder))
    change(model, processor, folder)
    after, calls = run(model, processor, load(folder))
    assert calls > 0
    assert not np.array_equal(before.head, after.head)


def test_another_precision_is_another_result_and_the_head_is_no_part_of_it(
    cache: Path, built: Any, photos: Path
) -> None:
    del cache
    processor, model = built
    run(model, processor, load(photos))
    assert run(model, processor, load(photos), "bf16")[1] > 0
    torch.nn.init.zeros_(model.classifier.weight)
    assert run(model, processor, load(photos))[1] == 0


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-4] + b"\0\0\x80?", lambda _: b""]
)
def test_a_damaged_file_is_computed_again(
    cache: Path, built: Any, photos: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    processor, model = built
    first, _ = run(model, processor, load(photos))
    (file,) = (cache / "vit-pipeline" / "features").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again, calls = run(model, processor, load(photos))
    assert calls == 5
    assert "is damaged: the features are computed again" in caplog.text
    assert np.array_equal(first.head, again.head)
    assert run(model, processor, load(photos))[1] == 0


def test_where_nothing_can_be_kept_one_line_says_so(
    tmp_path: Path, built: Any, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    split = load(photos)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    processor, model = built
    assert run(model, processor, split)[0].head.shape == (36, 32)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "set HF_DATASETS_CACHE to a folder with room" in warnings[0]
