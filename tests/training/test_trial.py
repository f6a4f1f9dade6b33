"""A trial of `--auto` is the training that it stands for; its result is cached, and nothing else is left."""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.selection import SelectionArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.strategy import ObjectiveArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.report import LoadedSplits
from pipeline.data.sources import load_splits
from pipeline.errors import PipelineError, Terminated
from pipeline.evaluation.scoring import score
from pipeline.models.build import build_classifier
from pipeline.models.inference import LoaderOptions
from pipeline.runs.files import read_json
from pipeline.training import trial
from pipeline.training.fine_tune import load_images
from pipeline.training.fit import fit


@pytest.fixture
def try_it(
    photos: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Settings, LoadedSplits]]:
    """Return settings and splits, with changes of the training; caches and temporary folders are in `tmp_path`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def make(*, refit_head: bool = False, head_init: Any = "random", **changes: Any) -> tuple[Settings, LoadedSplits]:
        flags = {"learning_rate": 2e-3, "per_device_train_batch_size": 6, "num_train_epochs": 9} | changes
        settings = Settings(
            model=ModelArguments(str(tiny_vit), head_init=head_init),
            data=DataArguments(dataset_name=str(photos)),
            selection=SelectionArguments(auto=True, refit_head=refit_head),
            trainer=FineTuningArguments(precision="fp32", dataloader_num_workers=0, **flags),
        )
        return settings, load_splits(settings.data)

    return make


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "vit-pipeline" / "trials").glob("*"))


def test_a_trial_is_a_complete_training_of_fewer_epochs(
    try_it: Callable[..., tuple[Settings, LoadedSplits]], tmp_path: Path
) -> None:
    settings, splits = try_it()
    tried = trial.try_settings(settings, splits, 2)
    short, _ = try_it(num_train_epochs=2)
    classifier = build_classifier(short.model, class_names=splits["train"].features["label"].names, seed=42)
    fit(classifier, load_images(splits, classifier.processor, short), folder=tmp_path / "run", settings=short)
    scored = score(classifier, splits["validation"], LoaderOptions(), name="validation")
    assert np.array_equal(tried, scored.logits.argmax(1) == scored.labels)
    assert settings.trainer.num_train_epochs == 9


def test_the_result_is_cached_and_nothing_else_is_left(
    try_it: Callable[..., tuple[Settings, LoadedSplits]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    settings, splits = try_it(refit_head=True, head_init="probe")
    caplog.clear()
    first = trial.try_settings(settings, splits, 2)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("pipeline")] == []
    assert logging.getLogger("pipeline").level == logging.INFO
    assert list((tmp_path / "temporary").glob("*trial-*")) == []
    (file,) = cached(tmp_path)
    monkeypatch.setattr(trial, "fit", None)  # a second training would fail
    assert np.array_equal(trial.try_settings(settings, splits, 2), first)
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    damaged = read_json(file)
    damaged["wrong"] = [0] if damaged["wrong"] != [0] else [1]  # another result, but a valid one
    for text in ('{"wrong": [1000]}', json.dumps(damaged)):
        file.write_text(text)
        assert np.array_equal(trial.try_settings(settings, splits, 2), first)


def test_other_settings_epochs_and_labels_are_other_trials(
    try_it: Callable[..., tuple[Settings, LoadedSplits]], tmp_path: Path
) -> None:
    settings, splits = try_it()
    trial.try_settings(settings, splits, 1)
    trial.try_settings(settings, splits, 2)
    trial.try_settings(try_it(learning_rate=1e-3)[0], splits, 1)
    swapped = splits["train"].add_column("other", splits["train"]["label"][::-1]).remove_columns("label")
    splits["train"] = swapped.rename_column("other", "label").cast_column("label", splits["train"].features["label"])
    trial.try_settings(settings, splits, 1)
    assert len(cached(tmp_path)) == 4


def test_a_stopped_trial_says_that_the_command_can_be_repeated(
    try_it: Callable[..., tuple[Settings, LoadedSplits]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Terminated("saved step 3 in a folder that is deleted")

    monkeypatch.setattr(trial, "fit", stop)
    settings, splits = try_it()
    with pytest.raises(Terminated, match="a trial of --auto was stopped: repeat the command"):
        trial.try_settings(settings, splits, 2)
    assert cached(tmp_path) == []
    assert list((tmp_path / "temporary").glob("*trial-*")) == []


def test_settings_that_the_network_does_not_support_are_rejected(
    try_it: Callable[..., tuple[Settings, LoadedSplits]],
) -> None:
    settings, splits = try_it()
    with pytest.raises(PipelineError, match="--image_size 30 is not a multiple of the patch size"):
        trial.try_settings(
            Settings(
                model=ModelArguments(settings.model.model_name_or_path, image_size=30),
                objective=ObjectiveArguments(),
                trainer=settings.trainer,
            ),
            splits,
            2,
        )
    assert logging.getLogger("pipeline").level != logging.ERROR
