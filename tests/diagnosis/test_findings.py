"""Findings about environment, data, licenses and cost, and their text."""

import dataclasses
import importlib.metadata
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch

from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.strategy import StrategyArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.sources import load_splits
from pipeline.diagnosis import data
from pipeline.diagnosis.cost import Step, cost, hours
from pipeline.diagnosis.environment import missing_extras, rejected_version, storage, unmet_requirements
from pipeline.diagnosis.finding import Finding, describe
from pipeline.diagnosis.licenses import licenses
from pipeline.images.depth import FULL_DEPTH
from pipeline.models.build import build_classifier
from tests.training.fitting import COLORS, settings_of

Usage = namedtuple("Usage", "total used free")


def settings_in(folder: Path, **flags: object) -> Settings:
    given = {"dataloader_num_workers": 0, "use_cpu": True, "num_train_epochs": 4} | flags
    return Settings(trainer=FineTuningArguments(output_dir=str(folder / "run"), **given))  # type: ignore[arg-type]


def test_the_text_groups_findings_by_subject_and_ends_with_the_verdict() -> None:
    found = [
        Finding("ok", "data", "10 images"),
        Finding("error", "model", "it is missing", "pass another"),
        Finding("warning", "data", "two lines\nof text"),
    ]
    assert describe(found) == (
        "data\n  ok       10 images\n  warning  two lines\n           of text\n\n"
        "model\n  error    it is missing: pass another\n\nnot ready to train: 1 error, 1 warning"
    )
    assert describe(found[:1]).endswith("\n\nready to train")


def test_installed_packages_are_compared_with_the_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(unmet_requirements()) == []
    needed = ["numpy<1", "no-such-package>=2,<3", "timm<0; extra == 'timm'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    old, missing = unmet_requirements()
    assert old.text == f"numpy<1 is needed, not {np.__version__}"
    assert old.remedy == 'run `pip install "numpy<1"`'
    assert (missing.level, missing.text) == ("error", "no-such-package>=2,<3 is not installed")


def test_extras_that_are_not_installed_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        "no-such-package>=2",
        "numpy>=1; extra == 'one'",
        'no-such-page; extra == "app"',
        "no-such-test; extra == 'dev'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    (found,) = missing_extras()
    assert (found.level, found.text) == ("note", "optional extras that are not installed: app")


def test_a_package_that_caps_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(rejected_version())
    info = tmp_path / "old_page-1.0.dist-info"
    info.mkdir()
    requires = "Requires-Dist: pillow<9\nRequires-Dist: Pillow<8; extra == 'x'\nRequires-Dist: pillow-heif<1\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: old-page\nVersion: 1.0\n{requires}")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = [each for each in rejected_version() if each not in before]
    assert found.text == f"old-page needs pillow<9, not {PIL.__version__}"
    assert found.remedy == 'run `pip install "pillow<9"`, or remove old-page'


@pytest.mark.parametrize(("free", "level"), [(1e9, "ok"), (1e8, "error")])
def test_the_disk_must_hold_the_checkpoints(
    free: float, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
    (found,) = storage(settings_in(tmp_path), weights=10_000_000, input_size=(32, 32))  # 3 x 120 MB
    assert found.level == level
    assert str(tmp_path) not in found.text


def test_data_workers_need_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 64e6))
    settings = settings_in(tmp_path, dataloader_num_workers=2, per_device_train_batch_size=32)
    assert [found.level for found in storage(settings, weights=1000, input_size=(32, 32))] == ["ok"]
    *_, found = storage(settings, weights=1000, input_size=(224, 224))
    assert (found.level, found.text) == ("error", "2 data workers need 116 MB of /dev/shm, and 64 MB are free")


@pytest.mark.parametrize(
    ("counts", "balanced", "level", "text"),
    [
        ([8, 8], False, "ok", "8 training images in each class"),
        ([8, 81], False, "warning", "8 to 81 training images in a class; 'a' has the fewest"),
        ([8, 81], True, "ok", "8 to 81 training images in a class"),
        ([8, 4], True, "warning", "4 to 8 training images in a class; fewer than 5 in 1: 'b'"),
    ],
)
def test_rare_classes_are_named(counts: list[int], balanced: bool, level: str, text: str) -> None:
    (found,) = data.classes(counts, ["a", "b"], balanced=balanced)
    assert found.level == level
    assert found.text.startswith(text)


def test_a_license_is_read_from_the_card_if_it_states_one(tmp_path: Path) -> None:
    texts = {"with": "---\nlicense: cc-by-4.0\n---\nText", "other": "---\nlicense: other\nlicense_name: own\n---\n",
             "none": "Text", "damaged": "---\n: [\n---\n"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(text)
    found = licenses({name: tmp_path / name for name in [*texts, "absent"]})
    assert [finding.text for finding in found] == ["license of the with: cc-by-4.0", "license of the other: own"]


def test_expected_hours(tmp_path: Path) -> None:
    step = Step(seconds=3.0, input_seconds=1.0, peak_bytes=1, images=10)

    def expected(settings: Settings) -> float:
        return 3600 * hours(step, train=100, validation=50, settings=settings)

    plain = settings_in(tmp_path)
    assert expected(plain) == pytest.approx(4 * (10 * 4.0 + 5 * 2.0))  # step and input; forward pass and input
    workers = settings_in(tmp_path, dataloader_num_workers=2)
    assert expected(workers) == pytest.approx(4 * (10 * 3.0 + 5 * 1.5))  # the input is made meanwhile
    probe = dataclasses.replace(plain, strategy=StrategyArguments(strategy="head"))
    assert expected(probe) == pytest.approx(15 * 2.0)


def test_repeated_images_are_counted_by_what_they_do(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(train=4, validation=4)
    shutil.copy(folder / "train" / "red" / "000.png", folder / "validation" / "red" / "copy.png")
    shutil.copy(folder / "train" / "blue" / "001.png", folder / "train" / "blue" / "copy.png")
    leak, within, *rest = data.repeats(load_splits(DataArguments(dataset_name=str(folder))), FULL_DEPTH)
    assert (leak.level, within.level) == ("warning", "note")
    assert leak.text.startswith("images of validation with the pixels of an image in an earlier split: 1 (row ")
    assert within.text == "images with the pixels of another image of their split: 1"
    assert all(each.level == "note" for each in rest)
    clean = load_splits(DataArguments(dataset_name=str(make_folder(train=4, validation=4))))
    assert [each for each in data.repeats(clean, FULL_DEPTH) if each.level != "note"] == []


@pytest.mark.parametrize(("finds", "level"), [(False, "error"), (True, "note")])
def test_a_step_that_does_not_fit_is_an_error_unless_training_finds_a_smaller_one(
    photos: Path, tiny_vit: Path, finds: bool, level: str
) -> None:
    def run_out_of_memory(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, torch.nn.Conv2d) and not module.weight.is_meta:
            raise torch.OutOfMemoryError("out of memory")

    settings = settings_of(auto_find_batch_size=finds)
    splits = load_splits(DataArguments(dataset_name=str(photos)))
    classifier = build_classifier(ModelArguments(str(tiny_vit)), class_names=COLORS, seed=1)
    short_of_memory = torch.nn.modules.module.register_module_forward_pre_hook(run_out_of_memory)
    (found,) = cost(classifier, splits, settings)
    short_of_memory.remove()
    assert found.level == level
    assert found.text.startswith("a step of 6 images does not fit in memory")
