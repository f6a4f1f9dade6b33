"""What is stored with a model is read again, changes nothing for transformers, and does not outlive the weights."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, pipeline

from pipeline.errors import PipelineError
from pipeline.models.classifier import ImageClassifier
from pipeline.models.uncertainty import KEY, OutOfDistribution, Uncertainty
from pipeline.runs.files import read_json
from pipeline.runs.folder import MODEL_FILES, UNCERTAINTY
from tests.conftest import noisy_image
from tests.models import families

RNG = np.random.default_rng(0)
CENTER, WHITENING, MEANS = (RNG.normal(size=shape).astype(np.float32) for shape in ((32,), (32, 32), (5, 32)))
OOD = OutOfDistribution(True, CENTER, WHITENING, MEANS, threshold=12.5)
STORED = Uncertainty(0.9, 0.95, 1020, 1.25, 0.7, 0.0, 0.5, OOD)


@pytest.fixture
def model(tiny_vit: Path, tmp_path: Path) -> Path:
    """A folder with the files of a small ViT."""
    return Path(shutil.copytree(tiny_vit, tmp_path / "model"))


def equal(one: Uncertainty, other: Uncertainty) -> bool:
    """Return whether two values are equal in every array."""
    parts = [vars(each) | {"ood": None} | (vars(each.ood) if each.ood else {}) for each in (one, other)]
    return parts[0].keys() == parts[1].keys() and all(np.array_equal(parts[0][key], parts[1][key]) for key in parts[0])


@pytest.mark.parametrize(
    "stored",
    [
        STORED,
        Uncertainty(0.8, 0.99, 12, lac_threshold=0.5, aps_threshold=0.6),
        Uncertainty(0.8, 0.99, 12, ood=OOD),
        Uncertainty(0.8, 0.99, 12, temperature=1.0),
    ],
)
def test_what_is_stored_is_read_again(model: Path, stored: Uncertainty) -> None:
    stored.write(model)
    read = ImageClassifier.load(model).uncertainty
    assert read is not None
    assert equal(read, stored)
    assert (model / UNCERTAINTY).stat().st_mode & 0o044 == 0o044  # a web server can read it


def test_nothing_fitted_leaves_no_file(model: Path) -> None:
    STORED.write(model)
    ImageClassifier.load(model).save(model)  # what train does before it fits again
    Uncertainty(0.9, 0.95, 5).write(model)
    assert not (model / UNCERTAINTY).exists()
    assert KEY not in read_json(model / "config.json")
    assert ImageClassifier.load(model).uncertainty is None


@pytest.mark.parametrize("family", ["vit", "timm"])
def test_transformers_gives_the_same_answers(family: str, tiny_vit: Path, tmp_path: Path) -> None:
    if family == "vit":
        shutil.copytree(tiny_vit, tmp_path / "model")
    else:
        families.save(next(name for name in families.FAMILIES if "timm" in name), tmp_path / "model")
    model = tmp_path / "model"
    image = noisy_image((200, 30, 30), 1)
    ImageClassifier.load(model).save(model)
    before = pipeline("image-classification", model=str(model))(image)
    Uncertainty(0.9, 0.95, 100, 1.5, 0.7, 0.6, 0.5).write(model)
    assert pipeline("image-classification", model=str(model))(image) == before
    config = AutoConfig.from_pretrained(model)
    config.save_pretrained(tmp_path / "again")
    assert getattr(AutoConfig.from_pretrained(tmp_path / "again"), KEY) == read_json(model / "config.json")[KEY]
    read = ImageClassifier.load(model).uncertainty
    assert read is not None
    assert read.temperature == 1.5


def test_a_network_that_is_saved_again_does_not_carry_it(model: Path, tmp_path: Path) -> None:
    STORED.write(model)
    ImageClassifier.load(model).save(tmp_path / "again")
    assert KEY not in read_json(tmp_path / "again" / "config.json")
    assert {path.name for path in (tmp_path / "again").iterdir()} == set(MODEL_FILES)


def test_a_copy_without_the_file_predicts_without_it(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    STORED.write(model)
    (model / UNCERTAINTY).unlink()
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert ImageClassifier.load(model).uncertainty is None
    assert f"{model} has no {UNCERTAINTY}; predicting without calibration" in caplog.text


def test_a_damaged_or_foreign_file_is_refused(model: Path) -> None:
    STORED.write(model)
    content = (model / UNCERTAINTY).read_bytes()
    (model / UNCERTAINTY).write_bytes(content[:100])
    with pytest.raises(
        PipelineError, match=r"uncertainty\.safetensors cannot be read \(.*\): copy it again, or delete"
    ):
        ImageClassifier.load(model)
    foreign = OutOfDistribution(True, OOD.center, OOD.whitening, np.zeros((9, 32), np.float32), 1.0)
    Uncertainty(0.9, 0.95, 10, ood=foreign).write(model)  # nine classes, the model has five
    with pytest.raises(PipelineError, match="it is that of another model"):
        ImageClassifier.load(model)
