"""Weights are loaded completely or rejected with the reason, and a saved model loads strictly."""

import contextlib
import json
import pickle
import resource
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    ViTForImageClassification,
)

from pipeline.errors import PipelineError
from pipeline.models.checkpoint import load_strictly
from pipeline.models.classifier import ImageClassifier
from pipeline.runs.folder import CARD, MODEL_FILES
from tests.conftest import save_vit
from tests.models.building import build, differing, new_classifier


def test_a_checkpoint_without_weights_is_rejected(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"bare has no weights .*--from_scratch"):
        build(tmp_path / "bare")


def test_a_checkpoint_with_corrupt_weights_is_rejected(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PipelineError, match=r"the weights of .*cut are corrupt .*: download them again"):
        build(tmp_path / "cut")


@pytest.fixture
def pickled(tiny_vit: Path, tmp_path: Path) -> Path:
    """A checkpoint with pickled weights, as on the Hub before safetensors."""
    shutil.copytree(tiny_vit, tmp_path / "pickled")
    torch.save(load_file(tiny_vit / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    return tmp_path / "pickled"


def test_a_pickle_is_loaded_with_a_log_line(tiny_vit: Path, pickled: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pipeline"):
        expected = build(tiny_vit)
        assert "pickle" not in caplog.text
        assert differing(build(pickled).state_dict(), expected.state_dict()) == set()
    assert "has pickled weights (.bin); loading them with weights_only=True" in caplog.text


@pytest.mark.parametrize("zipped", [True, False], ids=["format of torch", "format of pickle"])
def test_code_in_a_pickle_is_not_run(pickled: Path, zipped: bool) -> None:
    touched = pickled.parent / "touched"

    class Malicious:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (touched,)

    weights = {"vit.layernorm.weight": torch.ones(32), "more": Malicious()}
    if zipped:
        torch.save(weights, pickled / "pytorch_model.bin")
    else:
        (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(weights, protocol=2))
    for load in (build, lambda folder: ImageClassifier.load(str(folder))):
        with pytest.raises(PipelineError, match="are corrupt or contain more than tensors"):
            load(pickled)
        assert not touched.exists()
    with contextlib.suppress(RuntimeError):  # the second file is not in the format of torch
        torch.load(pickled / "pytorch_model.bin", weights_only=False)  # noqa: TID251 (shows what the code would do)
    assert touched.exists()


@pytest.mark.parametrize("known_type", [False, True], ids=["unknown model type", "known model type"])
def test_code_in_a_checkpoint_is_not_run(saved: Path, known_type: bool) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "custom.Config", "AutoModelForImageClassification": "custom.Model"}
    config["model_type"] = "vit" if known_type else "custom"
    (saved / "config.json").write_text(json.dumps(config))
    touched = saved.parent / "touched"
    (saved / "custom.py").write_text(f"import pathlib; pathlib.Path({str(touched)!r}).touch()")
    if known_type:
        assert type(build(saved)) is ViTForImageClassification
    else:
        with pytest.raises(PipelineError, match=r"cannot load .*saved as an image classifier: .*custom code"):
            build(saved)
    assert not touched.exists()


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_corrupt_pickle_is_rejected(pickled: Path, size: int) -> None:
    weights = pickled / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(PipelineError, match=r"weights of .*pickled are corrupt"):
        build(pickled)


def test_strict_loading_never_reads_a_pickle(pickled: Path) -> None:
    model = build(pickled, [f"LABEL_{number}" for number in range(5)])
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_strictly(model, pickled)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_vit(tmp_path / "saved", num_labels=3)


@pytest.fixture
def other(tmp_path: Path) -> PreTrainedModel:
    """A network of the same architecture that differs in every tensor."""
    folder = save_vit(tmp_path / "other", num_labels=3)
    model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    return model


def test_strict_loading_restores_every_tensor(saved: Path, other: PreTrainedModel) -> None:
    expected = AutoModelForImageClassification.from_pretrained(saved).state_dict()
    assert differing(other.state_dict(), expected) == expected.keys()
    addresses = {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}
    load_strictly(other, saved)
    assert differing(other.state_dict(), expected) == set()
    # The tensors keep their memory, because an optimizer refers to it.
    assert addresses == {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}


def test_the_stock_trainer_does_not_restore_most_of_a_vit(saved: Path, other: PreTrainedModel, tmp_path: Path) -> None:
    """If this fails, transformers has fixed the problem, and `StrictTrainer` no longer needs its own loading."""
    expected = AutoModelForImageClassification.from_pretrained(saved).state_dict()
    trainer = Trainer(other, TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none"))
    trainer._load_from_checkpoint(str(saved))
    assert len(differing(other.state_dict(), expected)) > len(expected) / 2


@pytest.mark.parametrize("damage", ["missing", "unexpected", "other shape"])
def test_strict_loading_fails_for_any_weight_that_does_not_match(
    saved: Path, other: PreTrainedModel, damage: str
) -> None:
    weights = load_file(saved / "model.safetensors")
    name = "vit.encoder.layer.1.attention.attention.query.weight"
    assert name in weights
    if damage == "missing":
        del weights[name]
    elif damage == "unexpected":
        weights["vit.unexpected.weight"] = torch.ones(2)
    else:
        weights["classifier.weight"] = torch.ones(4, 32)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises(PipelineError, match=r"saved does not match the model \(.+\): choose another --output_dir"):
        load_strictly(other, saved)
    assert differing(other.state_dict(), before) == set()


def test_a_saved_model_has_exactly_its_files_and_everybody_can_read_them(tiny_vit: Path, tmp_path: Path) -> None:
    classifier = new_classifier(tiny_vit)
    (tmp_path / CARD).write_text("card")
    for _ in range(2):  # the second replaces the first
        classifier.save(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*MODEL_FILES, CARD}
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert differing(loaded.state_dict(), classifier.model.state_dict()) == set()
    assert vars(AutoImageProcessor.from_pretrained(tmp_path)) == vars(classifier.processor)


def test_the_temporary_folder_of_a_killed_run_is_overwritten(tiny_vit: Path, tmp_path: Path) -> None:
    classifier = new_classifier(tiny_vit)
    (tmp_path / ".artefact").mkdir()
    (tmp_path / ".artefact" / "model.safetensors").write_bytes(b"incomplete")
    classifier.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*MODEL_FILES}


def test_a_folder_that_cannot_be_written_is_explained(tiny_vit: Path, tmp_path: Path) -> None:
    classifier = new_classifier(tiny_vit)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PipelineError, match=r"cannot write the model to .*file: Not a directory"):
        classifier.save(tmp_path / "file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # writing fails as on a full disk
    try:
        with pytest.raises(PipelineError, match=r"cannot write the model to .*File too large"):
            classifier.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "config.json").exists()
