"""`doctor` finds what `train` would refuse, says what to expect, and writes nothing."""

import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import doctor, errors, train
from pipeline.diagnosis.environment import PACKAGE

Run = Callable[..., tuple[int, str, str]]


def test_a_sound_training_is_ready(vit_pipeline: Run, photos: Path, tiny_vit: Path, tmp_path: Path) -> None:
    words = [f"--dataset_name={photos}", f"--model_name_or_path={tiny_vit}", f"--output_dir={tmp_path}/run"]
    code, out, err = vit_pipeline("doctor", *words, "--per_device_train_batch_size=4", "--dataloader_num_workers=0")
    assert code == 0, err
    assert out.rstrip().endswith("ready to train: 1 warning")  # few validation images
    assert re.search(r"ok +36 train, 18 validation, 18 test images of 3 classes; all can be read", out)
    assert re.search(r"note +a step of 4 images takes [\d.e-]+ s", out)
    assert re.search(r"note +about [\d.]+ minutes for 10 epochs", out)
    assert not (tmp_path / "run").exists()


def test_errors_of_all_subjects_are_found_at_once(
    vit_pipeline: Run, photos: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not a run")
    words = [f"--dataset_name={photos}", f"--model_name_or_path={tiny_vit}", f"--output_dir={tmp_path}"]
    code, out, err = vit_pipeline("doctor", *words, "--image_size=18", "--json=True")
    assert (code, "error" in err) == (2, False)
    found = [(each["subject"], each["text"]) for each in json.loads(out) if each["level"] == "error"]
    assert [subject for subject, _ in found] == ["environment", "model"]
    assert "is not empty and is not a run folder: choose another --output_dir" in found[0][1]
    assert "--image_size 18" in found[1][1]


def test_unreadable_images_are_named(make_folder: Callable[..., Path], tiny_vit: Path, tmp_path: Path) -> None:
    folder = make_folder(train=4, validation=4, test=4)
    bad = next(folder.glob("train/*/*.png"))
    bad.write_bytes(b"no image")
    found = doctor(dataset_name=folder, model_name_or_path=tiny_vit, output_dir=tmp_path / "run")
    (error,) = [finding for finding in found if finding.level == "error"]
    assert (error.subject, bad.name in error.text) == ("data", True)
    assert "pass --bad_images skip" in error.text


def test_train_refuses_what_doctor_calls_an_error(
    photos: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[str, Any] = {"dataset_name": photos, "model_name_or_path": tiny_vit, "output_dir": tmp_path / "run"}
    flags |= {"precision": "fp32", "dataloader_num_workers": 0, "num_train_epochs": 1}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    (error,) = [finding for finding in doctor(**flags) if finding.level == "error"]
    assert "checkpoints need about" in error.text
    with pytest.raises(errors.PipelineError, match=re.escape(f"{error.text}: {error.remedy}")):
        train(**flags)
    needed = importlib.metadata.requires
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy<1"] if name == PACKAGE else needed(name))
    with pytest.raises(errors.PipelineError, match=r'numpy<1 is needed, not .*: run `pip install "numpy<1"`'):
        train(**flags)
    assert not (tmp_path / "run").exists()


def test_invalid_flags_are_refused_as_by_train(photos: Path) -> None:
    with pytest.raises(errors.PipelineError, match="--learning_rate"):
        doctor(dataset_name=photos, learning_rate=-1.0)
