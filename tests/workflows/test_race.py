"""`race` compares backbones, resumes, chooses by validation only, and names what failed."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from transformers import BertConfig, pipeline

from pipeline import Run, race
from pipeline.errors import PipelineError
from pipeline.evaluation.predictions import read_predictions
from pipeline.evaluation.uncertainty.errors import NotFitted
from pipeline.evaluation.uncertainty.temperature import fit_temperature
from pipeline.racing.entry import ENSEMBLE, PROBE
from pipeline.runs.files import read_json
from pipeline.runs.lock import lock
from tests.conftest import save_vit
from tests.models import families

Command = Callable[..., tuple[int, str, str]]
MISSING = "nobody/no-such-model"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return three small networks: a ViT, a ConvNeXt and a DINOv2 without a head."""
    root = tmp_path_factory.mktemp("models")
    save_vit(root / "vit")
    for name in ("convnext", "dinov2"):
        families.save(name, root / name)
    return [str(root / name) for name in ("vit", "convnext", "dinov2")]


@pytest.fixture(scope="module")
def flags(photos: Path) -> dict[str, Any]:
    loop = {"num_train_epochs": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 6}
    return {"dataset_name": str(photos), "precision": "fp32", "dataloader_num_workers": 0, "report": "no"} | loop


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, models: list[str], flags: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("races") / "race"
    race(**flags, backbones=[*models, MISSING], finalists=2, output_dir=folder)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_json(folder / "race.json")["rows"]
    return rows


def test_the_table_has_a_row_for_each_backbone_and_strategy(finished: Path) -> None:
    rows = rows_of(finished)
    names = sorted((row["backbone"], re.sub(r" \(.*", "", row["strategy"])) for row in rows)
    tuned = [row for row in rows if row["strategy"] == "full"]
    expected = [(name, strategy) for name in ("convnext", "dinov2", "vit") for strategy in ("kNN", PROBE)]
    expected += [(row["backbone"], "full") for row in tuned] + [(MISSING, PROBE)]
    (vote,) = (row for row in rows if row["strategy"] == ENSEMBLE)
    assert names == sorted([*expected, (vote["backbone"], ENSEMBLE)])
    assert set(vote["backbone"].split(" + ")) == {row["backbone"] for row in tuned}
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    accuracies = [row["validation_accuracy"] for row in rows[:-1]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert all(row["validation_accuracy_low"] <= row["validation_accuracy"] for row in rows[:-1])


def test_the_finalists_have_the_best_probes_and_are_runs(finished: Path) -> None:
    rows = rows_of(finished)
    probes = [row["backbone"] for row in rows if row["strategy"] == PROBE and not row["error"]]  # the best first
    tuned = [row for row in rows if row["strategy"] == "full"]
    assert len(tuned) == 2
    third = next(row for row in rows if row["backbone"] == probes[2] and row["strategy"] == PROBE)
    for row in tuned:
        probe = next(each for each in rows if each["backbone"] == row["backbone"] and each["strategy"] == PROBE)
        assert probe["validation_accuracy"] >= third["validation_accuracy"]
        run = Run(finished / row["folder"])
        assert run.metrics["eval_accuracy"] == row["validation_accuracy"]
        assert run.metrics["test_accuracy"] == row["test_accuracy"]
        assert run.settings["num_train_epochs"] == 2


def test_costs_are_those_of_the_networks(finished: Path, models: list[str]) -> None:
    vit = next(row for row in rows_of(finished) if row["backbone"] == "vit" and row["strategy"] == PROBE)
    network = pipeline("image-classification", model=models[0]).model
    head = 2 * 33  # three classes, not five, on a width of 32
    assert vit["parameters"] == sum(weight.numel() for weight in network.parameters()) - head
    assert vit["input_size"] == [16, 16]
    assert vit["gflops"] > 0
    assert vit["train_images_per_second"] > 0
    assert vit["predict_images_per_second"] > 0
    assert vit["memory_gb"] is None or torch.cuda.is_available()


def test_the_soft_vote_is_the_mean_of_calibrated_probabilities(finished: Path) -> None:
    rows = rows_of(finished)
    vote = next(row for row in rows if row["strategy"] == ENSEMBLE)
    mean: dict[str, Any] = {}
    labels = {}
    for name in vote["backbone"].split(" + "):
        row = next(row for row in rows if row["backbone"] == name and row["strategy"] == "full")
        found = {each.split: each for each in read_predictions(finished / row["folder"] / "predictions.parquet")[0]}
        validation = found["validation"]
        try:
            temperature = fit_temperature(validation.logits, validation.labels)
        except NotFitted:
            temperature = 1.0
        for split, each in found.items():
            mean[split] = mean.get(split, 0) + softmax(each.logits.astype(np.float64) / temperature, axis=1)
            labels[split] = each.labels
    for split in ("validation", "test"):
        assert vote[f"{split}_accuracy"] == (mean[split].argmax(axis=1) == labels[split]).mean()


def test_a_backbone_that_cannot_be_loaded_is_a_row_and_the_exit_code_is_2(
    vit_pipeline: Command,
    finished: Path,
    models: list[str],
    flags: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = rows_of(finished)[-1]
    assert failed["backbone"] == MISSING
    assert "is not cached and the Hub cannot be reached" in failed["error"]
    words = [f"--{name}={value}" for name, value in flags.items()]
    words += ["--backbones", *models, MISSING, f"--output_dir={finished}"]
    code, out, err = vit_pipeline("race", *words)
    assert code == 2, err
    assert re.search(rf"{MISSING} +linear probe +failed: model {MISSING} is not cached", out)
    assert caplog.text.count("was measured before") == 3
    assert caplog.text.count("was finished before") == 2


def test_only_the_chosen_model_and_the_finalists_have_a_test_accuracy(finished: Path) -> None:
    for row in rows_of(finished):
        scored = row["chosen"] or row["strategy"] in ("full", ENSEMBLE)
        assert (row["test_accuracy"] is not None) == scored, row
    assert sum(row["chosen"] for row in rows_of(finished)) == 1


def test_csv_and_page_show_the_rows(finished: Path) -> None:
    rows = rows_of(finished)
    with (finished / "race.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [each["backbone"] for each in table] == [row["backbone"] for row in rows]
    assert [float(each["validation_accuracy"]) for each in table[:-1]] == [r["validation_accuracy"] for r in rows[:-1]]
    page = (finished / "race.html").read_text()
    assert page.count("<tr") == len(rows)  # a header, and no row for the failure
    assert "<circle" in page
    assert MISSING in page


def test_a_chosen_linear_probe_is_saved_and_scored(
    vit_pipeline: Command,
    models: list[str],
    flags: dict[str, Any],
    photos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = [f"--{name}={flags[name]}" for name in ("dataset_name", "precision", "dataloader_num_workers")]
    words = [*data, "--backbones", *models[:2], "--finalists=0", f"--output_dir={tmp_path / 'race'}"]
    code, out, err = vit_pipeline("race", *words)
    assert code == 0, err
    best = next(row for row in rows_of(tmp_path / "race") if row["chosen"])
    assert best["strategy"] == PROBE
    classify = pipeline("image-classification", model=str(tmp_path / "race" / best["folder"]))
    files = sorted((photos / "test").glob("*/*.png"))
    correct = [classify(Image.open(file))[0]["label"] == file.parent.name for file in files]
    assert best["test_accuracy"] == np.mean(correct)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    caplog.clear()
    code, again, err = vit_pipeline("race", *words)
    assert (code, again) == (0, out)
    assert caplog.records == []  # nothing was loaded
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_more_backbones_are_added_and_other_settings_are_refused(
    models: list[str], flags: dict[str, Any], make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_folder(train=6)  # validation is held out
    common = {name: flags[name] for name in ("precision", "dataloader_num_workers")}
    common |= {"dataset_name": photos, "output_dir": tmp_path / "race", "finalists": 0}
    first = race(**common, backbones=models[:1])
    assert {row["validation_samples"] for row in first["rows"]} == {3}
    assert first["data"]["samples"] == {"train": 15, "validation": 3}
    both = race(**common, backbones=models[:2])
    assert {row["backbone"] for row in both["rows"]} == {"vit", "convnext"}
    with pytest.raises(PipelineError, match=r"seed: 42 in the run folder, 7 on the command line"):
        race(**common, backbones=models[:2], seed=7)
    Image.new("RGB", (20, 16)).save(photos / "train" / "red" / "another.png")
    with pytest.raises(PipelineError, match=r"the data changed .*samples: .*'train': 15.* then, .*'train': 16.* now"):
        race(**common, backbones=models[:2])
    with lock(tmp_path / "race"), pytest.raises(PipelineError, match=r"another command is writing into .*race"):
        race(**common, backbones=models[:2])


def test_changed_weights_of_a_backbone_are_noticed(flags: dict[str, Any], tmp_path: Path) -> None:
    model = save_vit(tmp_path / "vit")
    common = {name: flags[name] for name in ("dataset_name", "precision", "dataloader_num_workers")}
    common |= {"output_dir": tmp_path / "race", "finalists": 0, "backbones": [str(model)]}
    race(**common)
    save_vit(tmp_path / "vit", num_labels=7)
    (row,) = race(**common)["rows"]
    assert "changed after it was compared: choose another --output_dir, or remove" in row["error"]


def test_every_supported_family_can_be_compared(flags: dict[str, Any], tmp_path: Path) -> None:
    folders = [tmp_path / "models" / name.replace("/", "") for name in families.FAMILIES]
    for name, folder in zip(families.FAMILIES, folders, strict=True):
        families.save(name, folder)
    common = {name: flags[name] for name in ("dataset_name", "precision", "dataloader_num_workers")}
    found = race(**common, backbones=folders, finalists=0, output_dir=tmp_path / "race")
    assert [(row["backbone"], row["error"]) for row in found["rows"] if row["error"]] == []
    probes = [row for row in found["rows"] if row["strategy"] == PROBE]
    assert {row["backbone"] for row in probes} == {folder.name for folder in folders}
    assert all(row["train_images_per_second"] and row["predict_images_per_second"] for row in probes)


def test_a_model_that_does_not_read_images_fails_by_name(flags: dict[str, Any], tmp_path: Path) -> None:
    BertConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    common = {name: flags[name] for name in ("dataset_name", "precision", "dataloader_num_workers")}
    found = race(**common, backbones=[str(tmp_path / "bert")], finalists=1, output_dir=tmp_path / "race")
    (row,) = found["rows"]
    assert "has the model type bert, for which transformers has no image classifier" in row["error"]
    assert found["conclusions"] == ["No backbone could be compared."]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"backbones": ["tutorail"]},
            r"unknown list or model folder 'tutorail' in --backbones \(did you mean 'tutorial'",
        ),
        ({"backbones": []}, "no backbones given: pass --backbones"),
        ({"finalists": 4}, "--finalists 4 is more than the number of --backbones: use at most 3"),
        ({"strategy": "head"}, "--strategy head is what race does with every backbone first"),
        ({"model_name_or_path": "a/b"}, "--model_name_or_path is for one model"),
        ({"streaming": True}, "race reads all images before training and cannot be combined with --streaming"),
        ({"push_to_hub": True, "hub_model_id": "a/b"}, "--push_to_hub would push every finalist"),
        ({"learning_rat": 1}, r"unknown flag --learning_rat \(did you mean"),
    ],
)
def test_invalid_calls_are_refused_before_anything_is_written(
    changed: dict[str, Any], message: str, models: list[str], flags: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match=message):
        race(**flags | {"backbones": models, "output_dir": tmp_path / "race"} | changed)
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_that_is_named_twice_is_refused(models: list[str], flags: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"--backbones names .*vit 2 times: remove all but one"):
        race(**flags, backbones=[*models, f"{models[0]}/../vit"])
    other = save_vit(tmp_path / "vit")
    with pytest.raises(PipelineError, match="have the same name: rename one of the folders"):
        race(**flags, backbones=[*models, str(other)])


def test_a_run_folder_is_not_a_race_and_a_race_is_not_a_run(
    finished: Path, finished_run: Path, models: list[str], flags: dict[str, Any], vit_pipeline: Command
) -> None:
    with pytest.raises(PipelineError, match="holds a run, not a race: choose another --output_dir"):
        race(**flags, backbones=models, output_dir=finished_run)
    code, _, err = vit_pipeline("report", f"--model={finished}")
    assert code == 2
    assert "holds a race, not a run: pass one of the run folders in it" in err


def test_an_unfinished_fine_tuning_is_resumed(models: list[str], flags: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "race"
    call = flags | {"backbones": models[:1], "finalists": 1, "output_dir": folder}
    race(**call)
    record = folder / "vit" / "full" / "run.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"status": "running"}))
    (folder / "race.json").unlink()
    (row,) = (row for row in race(**call)["rows"] if row["strategy"] == "full")
    assert row["validation_accuracy"] == Run(folder / "vit" / "full").metrics["eval_accuracy"]


def test_auto_chooses_the_settings_of_a_finalist(models: list[str], flags: dict[str, Any], tmp_path: Path) -> None:
    loop = ("num_train_epochs", "learning_rate", "per_device_train_batch_size")
    common = {name: value for name, value in flags.items() if name not in loop}
    found = race(
        **common, auto=True, num_train_epochs=1, backbones=models[:1], finalists=1, output_dir=tmp_path / "race"
    )
    (row,) = (row for row in found["rows"] if row["strategy"] == "auto")
    assert row["folder"] == "vit/auto"
    assert "--learning_rate=0.002" in read_json(tmp_path / "race" / "vit" / "auto" / "run.json")["auto"]
    with pytest.raises(PipelineError, match="auto: True in the run folder, False on the command line"):
        race(**common, num_train_epochs=1, backbones=models[:1], finalists=1, output_dir=tmp_path / "race")
