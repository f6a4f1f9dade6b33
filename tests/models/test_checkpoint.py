"""Weights are read whole or refused with the reason; what is saved is the model, and loads strictly."""

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

from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.models.build import build_model
from pipeline.models.checkpoint import load_strictly, save_model
from pipeline.models.classifier import ImageClassifier
from pipeline.runs.folder import CARD, MODEL_FILES
from tests.conftest import COLOURS, save_vit
from tests.models.building import build, differing


def test_a_checkpoint_without_weights_is_refused(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"bare has no weights .*--from_scratch"):
        build(tmp_path / "bare")


def test_a_checkpoint_with_damaged_weights_is_refused(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PipelineError, match=r"the weights of .*cut are damaged .*: get them again"):
        build(tmp_path / "cut")


@pytest.fixture
def pickled(tiny_vit: Path, tmp_path: Path) -> Path:
    """The checkpoint as it lay on the Hub before there were safetensors."""
    shutil.copytree(tiny_vit, tmp_path / "pickled")
    torch.save(load_file(tiny_vit / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    return tmp_path / "pickled"


def test_a_pickle_is_read_and_said_to_be_one(tiny_vit: Path, pickled: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pipeline"):
        safe = build(tiny_vit)
        assert "pickle" not in caplog.text
        assert differing(build(pickled).state_dict(), safe.state_dict()) == set()
    assert "weights are a pickle (.bin), read with weights_only" in caplog.text


@pytest.mark.parametrize("zipped", [True, False], ids=["as torch writes it", "as pickle writes it"])
def test_a_pickle_that_does_more_than_hold_tensors_does_it_not(pickled: Path, zipped: bool) -> None:
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
        with pytest.raises(PipelineError, match="are a pickle that is damaged or holds more than tensors"):
            load(pickled)
        assert not touched.exists()
    with contextlib.suppress(RuntimeError):  # for it is no file of torch's
        torch.load(pickled / "pytorch_model.bin", weights_only=False)  # noqa: TID251 (this is what it would have done)
    assert touched.exists()


@pytest.mark.parametrize("known", [False, True], ids=["a type of its own", "a type that transformers has"])
def test_code_that_a_checkpoint_brings_is_not_run(saved: Path, known: bool) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForImageClassification": "theirs.Model"}
    config["model_type"] = "vit" if known else "theirs"
    (saved / "config.json").write_text(json.dumps(config))
    touched = saved.parent / "touched"
    (saved / "theirs.py").write_text(f"import pathlib; pathlib.Path({str(touched)!r}).touch()")
    if known:
        assert type(build(saved)) is ViTForImageClassification
    else:
        with pytest.raises(PipelineError, match=r"saved is no image classifier: .*custom code"):
            build(saved)
    assert not touched.exists()


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_pickle_that_is_damaged_is_refused(pickled: Path, size: int) -> None:
    weights = pickled / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(PipelineError, match=r"the weights of .*pickled are .*damaged"):
        build(pickled)


def test_what_we_saved_is_never_read_from_a_pickle(pickled: Path) -> None:
    model = build(pickled, [f"LABEL_{number}" for number in range(5)])
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_strictly(model, pickled)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_vit(tmp_path / "saved", num_labels=3)


@pytest.fixture
def other(tmp_path: Path) -> PreTrainedModel:
    """The same shape with other weights in every tensor."""
    folder = save_vit(tmp_path / "other", num_labels=3)
    model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    return model


def test_strict_loading_restores_every_tensor(saved: Path, other: PreTrainedModel) -> None:
    expected = AutoModelForImageClassification.from_pretrained(saved).state_dict()
    assert differing(other.state_dict(), expected) == expected.keys()
    places = {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}
    load_strictly(other, saved)
    assert differing(other.state_dict(), expected) == set()
    assert places == {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}  # optimizers hold them


def test_the_stock_trainer_leaves_most_of_a_vit_as_it_was(saved: Path, other: PreTrainedModel, tmp_path: Path) -> None:
    """Once this fails, transformers has mended it, and `StrictTrainer` need not load by itself."""
    expected = AutoModelForImageClassification.from_pretrained(saved).state_dict()
    trainer = Trainer(other, TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none"))
    trainer._load_from_checkpoint(str(saved))
    assert len(differing(other.state_dict(), expected)) > len(expected) / 2


@pytest.mark.parametrize("damage", ["missing", "left over", "other shape"])
def test_strict_loading_fails_on_any_weight_that_does_not_fit(saved: Path, other: PreTrainedModel, damage: str) -> None:
    weights = load_file(saved / "model.safetensors")
    name = "vit.encoder.layer.1.attention.attention.query.weight"
    assert name in weights
    if damage == "missing":
        del weights[name]
    elif damage == "left over":
        weights["vit.surplus.weight"] = torch.ones(2)
    else:
        weights["classifier.weight"] = torch.ones(4, 32)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises(PipelineError, match="saved does not fit the model: "):
        load_strictly(other, saved)
    assert differing(other.state_dict(), before) == set()


def test_the_artefact_is_exactly_its_files_and_anybody_may_read_them(tiny_vit: Path, tmp_path: Path) -> None:
    processor, model = build_model(ModelArguments(str(tiny_vit)), class_names=list(COLOURS), seed=0)
    (tmp_path / CARD).write_text("mine")
    for _ in range(2):  # the second replaces the first
        save_model(model, processor, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*MODEL_FILES, CARD}
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert differing(again.state_dict(), model.state_dict()) == set()
    assert vars(AutoImageProcessor.from_pretrained(tmp_path)) == vars(processor)


def test_a_draft_that_a_killed_run_left_does_no_harm(tiny_vit: Path, tmp_path: Path) -> None:
    processor, model = build_model(ModelArguments(str(tiny_vit)), class_names=list(COLOURS), seed=0)
    (tmp_path / ".artefact").mkdir()
    (tmp_path / ".artefact" / "model.safetensors").write_bytes(b"half")
    save_model(model, processor, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*MODEL_FILES}


def test_an_artefact_for_which_there_is_no_place_is_explained(tiny_vit: Path, tmp_path: Path) -> None:
    processor, model = build_model(ModelArguments(str(tiny_vit)), class_names=list(COLOURS), seed=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PipelineError, match=r"cannot write the model into .*file: Not a directory"):
        save_model(model, processor, tmp_path / "file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a disk that is full, as far as writing goes
    try:
        with pytest.raises(PipelineError, match=r"cannot write the model into .*File too large"):
            save_model(model, processor, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "config.json").exists()
