"""Logit margins of the training images: the same as from the logits themselves, over epochs, ranks and a resume."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from pipeline.arguments.data import DataArguments
from pipeline.data.labels.read import read_integers
from pipeline.data.sources import load_splits
from pipeline.models.build import build_classifier
from pipeline.performance.throughput import Clock
from pipeline.training.build import build_trainer
from pipeline.training.callbacks.margins import MARGINS, Margins, NumberedRows
from pipeline.training.fine_tune import load_images
from pipeline.training.fit import fit
from tests.training.fitting import COLORS, settings_of


def test_margins_are_means_over_the_times_that_an_image_was_seen() -> None:
    margins = Margins(4)
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0]])
    margins.add(torch.tensor([2, 0]), logits, torch.tensor([0, 0]))
    margins.add(torch.tensor([2]), torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([0]))
    found = margins.evidence()
    assert found is not None
    assert found.trust.tolist() == pytest.approx([-5.0, np.nan, (1.0 - 3.0) / 2, np.nan], nan_ok=True)
    assert found.likely[[0, 2]].tolist() == [1, 2]
    assert found.contradicts.tolist() == [True, False, True, False]
    assert found.reasons[0] == "mean margin -5.00 over 0.75 epochs"
    assert Margins(3).evidence() is None


def test_a_checkpoint_holds_the_margins_until_then(tmp_path: Path) -> None:
    first, control = Margins(2), TrainerControl()
    args, state = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState()
    first.add(torch.tensor([0]), torch.tensor([[1.0, 4.0]]), torch.tensor([0]))
    first.on_epoch_end(args, state, control)
    (tmp_path / MARGINS).write_bytes(first.content())
    first.add(torch.tensor([1]), torch.tensor([[9.0, 0.0]]), torch.tensor([0]))  # after the checkpoint
    resumed = Margins(2)
    resumed.restore(tmp_path / MARGINS)
    resumed.add(torch.tensor([1, 0]), torch.tensor([[2.0, 0.0], [1.0, 2.0]]), torch.tensor([0, 0]))
    found = resumed.evidence()
    assert found is not None
    assert found.trust.tolist() == [-2.0, 2.0]
    for wrong in (b"", b"broken"):
        (tmp_path / MARGINS).write_bytes(wrong)
        other = Margins(2)
        other.restore(tmp_path / MARGINS)
        assert other.evidence() is None
    (tmp_path / MARGINS).write_bytes(first.content())
    other = Margins(3)  # the margins of other images
    other.restore(tmp_path / MARGINS)
    assert other.evidence() is None


def test_batches_know_their_rows() -> None:
    rows = NumberedRows(datasets.Dataset.from_dict({"labels": [5, 6, 7]}))
    assert len(rows) == 3
    assert rows.__getitems__([2, 0]) == [{"labels": 7, "rows": 2}, {"labels": 5, "rows": 0}]


@pytest.mark.parametrize("image_cache", ["disk", "device"])
def test_training_collects_the_margins_of_every_image(
    photos: Path, tiny_vit: Path, tmp_path: Path, image_cache: str
) -> None:
    """With a learning rate of 0 and no augmentation, the margins are those of the network as it is."""
    settings = settings_of(
        model_name_or_path=str(tiny_vit), learning_rate=0.0, augmentation="none", image_cache=image_cache,
        num_train_epochs=2,
    )  # fmt: skip
    splits = load_splits(DataArguments(dataset_name=str(photos)))
    classifier = build_classifier(settings.model, class_names=COLORS, seed=0)
    images = load_images(splits, classifier.processor, settings)
    trainer = build_trainer(classifier, images, folder=tmp_path, settings=settings, clock=Clock(), extra_callbacks=[])
    trainer.train()
    margins = trainer.components.margins
    assert margins is not None
    found = margins.evidence()
    assert found is not None

    labels = read_integers(splits["train"])
    from pipeline.evaluation.scoring import score
    from pipeline.models.inference import LoaderOptions

    logits = score(classifier, splits["train"], LoaderOptions(), name="train").logits
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    expected = logits[np.arange(len(labels)), labels] - others.max(axis=1)
    assert found.trust == pytest.approx(expected, abs=1e-4)
    assert (found.likely == others.argmax(axis=1)).all()
    assert "over 2 epochs" in found.reasons[0]
    assert list(tmp_path.glob(f"checkpoint-*/{MARGINS}"))


@pytest.mark.parametrize("flags", [{"mixup": 0.4}, {"audit": "no"}])
def test_margins_are_not_collected_if_labels_are_mixed_or_no_audit_is_wanted(
    photos: Path, tiny_vit: Path, tmp_path: Path, flags: dict[str, object]
) -> None:
    settings = settings_of(model_name_or_path=str(tiny_vit), num_train_epochs=1, **flags)
    splits = load_splits(DataArguments(dataset_name=str(photos)))
    classifier = build_classifier(settings.model, class_names=COLORS, seed=0)
    images = load_images(splits, classifier.processor, settings)
    assert "margins" not in fit(classifier, images, folder=tmp_path, settings=settings)
    assert not list(tmp_path.glob(f"checkpoint-*/{MARGINS}"))
