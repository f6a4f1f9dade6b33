"""Runs of a few seconds: a small ViT with dropout, three colors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor

from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.data.sources import load_splits
from pipeline.models.build import build_classifier
from pipeline.runs.files import read_json
from pipeline.runs.folder import TRAINER_STATE
from pipeline.training.fine_tune import load_images
from pipeline.training.fit import fit
from tests.conftest import save_vit
from tests.training.fitting import COLORS, Fitted, settings_of


@pytest.fixture(scope="package")
def dropping_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT with dropout, so that a resume must restore every random generator."""
    folder = tmp_path_factory.mktemp("dropping")
    return save_vit(folder, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)


@pytest.fixture(scope="package")
def splits(photos: Path) -> datasets.DatasetDict:
    return load_splits(DataArguments(dataset_name=str(photos)))


@pytest.fixture(scope="package")
def misleading(splits: datasets.DatasetDict) -> datasets.DatasetDict:
    """Validation labels are shifted by one class, so every training step makes validation worse."""
    other = splits["validation"].map(lambda row: {"label": (row["label"] + 1) % 3})
    return datasets.DatasetDict(splits | {"validation": other})


@pytest.fixture
def fitted(dropping_vit: Path, splits: datasets.DatasetDict, tmp_path: Path) -> Callable[..., Fitted]:
    """Build the model and fit it, in a folder of this test."""

    def run(
        name: str = "run",
        *,
        data: datasets.DatasetDict = splits,
        vit: Path = dropping_vit,
        before_fit: Callable[[], object] = lambda: None,
        **changes: Any,
    ) -> Fitted:
        settings = settings_of(**changes)
        classifier = build_classifier(ModelArguments(str(vit)), class_names=COLORS, seed=settings.trainer.seed)
        seen: list[Tensor] = []

        def look(module: torch.nn.Module, _: Any, given: dict[str, Any]) -> None:
            if module.training and not given["pixel_values"].is_meta:  # FLOPs are counted on the meta device
                seen.append(given["pixel_values"].clone())

        (tmp_path / name).mkdir(exist_ok=True)
        with_hook = classifier.model.register_forward_pre_hook(torch.compiler.disable(look), with_kwargs=True)
        images = load_images(data, classifier.processor, settings)
        before_fit()
        metrics = fit(classifier, images, folder=tmp_path / name, settings=settings)
        with_hook.remove()
        state = read_json(tmp_path / name / TRAINER_STATE)
        return Fitted(tmp_path / name, classifier.model, metrics, seen, state, images.decisions)

    return run
