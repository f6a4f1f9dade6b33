"""Two processes do what one does: the same training, the same predictions, every file once, one voice."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from pipeline.evaluation.predictions import read_predictions
from pipeline.runs.files import read_json
from pipeline.runs.folder import PREDICTIONS, RECORD, TRAINER_STATE, RunFolder
from tests.conftest import draw_image
from tests.launch.conftest import launcher

Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Jobs:
    """What two processes did, job by job: the folder they did it in, and what each of them said."""

    folder: Path
    train: list[str]
    first: dict[str, Any]
    second: dict[str, Any]

    def refusal(self, name: str) -> str:
        assert self.first[name]["code"] == self.second[name]["code"] == 2, self.first[name]
        message: str = self.first[name]["err"]
        return message.partition("error: ")[2].strip()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path, photos: Path) -> Jobs:
    """Every job of this module, in one launch: to start a process takes longer than any of them."""
    folder = tmp_path_factory.mktemp("two")
    copy_photos(photos, folder)
    train = ["train", f"--model_name_or_path={tiny_vit}", "--dataset_name=photos", "--precision=fp32"]
    train += ["--learning_rate=3e-3", "--global_batch_size=12", "--num_train_epochs=3", "--dataloader_num_workers=0"]
    stopped = [*train, "--num_train_epochs=20", f"--output_dir={folder / 'stopped'}"]
    run = [*train, f"--output_dir={folder / 'run'}"]
    listed: dict[str, dict[str, Any]] = {
        "train": {"words": run},
        "again": {"words": run},
        "evaluate": {"words": ["evaluate", f"--model={folder / 'run'}", f"--output_dir={folder / 'scores'}"]},
        "predict": {"words": ["predict", f"--model={folder / 'run'}", "photos/test", f"--output={folder / 'two.csv'}"]},
        "other flags": {"words": [*train, "--output_dir=no"], "words1": ["--learning_rate=1e-4", "--seed=7"]},
        "other images": {"words": [*train, "--output_dir=no"], "folder1": str(folder / "changed")},
        "fewer images": {"words": [*train, "--output_dir=no"], "folder1": str(folder / "fewer")},
        "bad image": {"words": [*train, "--output_dir=no"], "folder": str(folder / "broken")},
        "bad flag": {"words": [*train, "--learning_rat=1"]},
        "bad flag there": {"words": [*train, "--output_dir=no"], "words1": ["--learning_rat=1"]},
        "indivisible": {"words": [*train, "--global_batch_size=7"]},
        "stopped": {"words": stopped, "signal1": str(folder / "stopped" / "checkpoint-6")},
        "goes on": {"words": stopped},
    }
    jobs = {name: {"folder": str(folder / "same")} | job for name, job in listed.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with launcher(folder) as launch:
        launched = launch("--num_processes", 2, "-m", "tests.launch.worker", folder)
        output, _ = launched.communicate(timeout=400)
    assert launched.returncode == 0, output
    answers = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return Jobs(folder, train, *answers)


def copy_photos(photos: Path, folder: Path) -> None:
    """The data as two machines might have them: the same, of another size, with one image less, with a broken one."""
    for name in ("same", "changed", "fewer", "broken"):
        shutil.copytree(photos, folder / name / "photos")
    changed, fewer, broken = (
        folder / name / "photos" / "train" / "red" / "003.png" for name in ("changed", "fewer", "broken")
    )
    draw_image((9, 9, 9), 5, size=(31, 30)).save(changed)
    fewer.unlink()
    broken.write_bytes(broken.read_bytes()[:99])


def test_the_first_process_speaks_for_all(jobs: Jobs) -> None:
    assert {job["out"] + job["err"] for job in jobs.second.values()} == {""}
    assert "cpu x2" in jobs.first["train"]["err"]
    assert "was finished before" in jobs.first["again"]["out"]


def test_two_processes_train_as_one(jobs: Jobs, vit_pipeline: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.first["train"]["code"] == jobs.second["train"]["code"] == 0, jobs.first["train"]
    monkeypatch.chdir(jobs.folder / "same")
    one = jobs.folder / "one"
    assert vit_pipeline(*jobs.train, f"--output_dir={one}")[0] == 0
    assert_same_run(one, jobs.folder / "run")


def test_two_processes_score_as_one(jobs: Jobs, vit_pipeline: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.first["evaluate"]["code"] == jobs.second["evaluate"]["code"] == 0, jobs.first["evaluate"]
    monkeypatch.chdir(jobs.folder / "same")
    alone = jobs.folder / "alone"
    assert vit_pipeline("evaluate", f"--model={jobs.folder / 'run'}", f"--output_dir={alone}")[0] == 0
    assert_same_predictions(alone, jobs.folder / "scores", tolerance=1e-6)


def test_two_processes_predict_as_one(jobs: Jobs, vit_pipeline: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.first["predict"]["code"] == jobs.second["predict"]["code"] == 0, jobs.first["predict"]
    monkeypatch.chdir(jobs.folder / "same")
    one = jobs.folder / "one.csv"
    assert vit_pipeline("predict", f"--model={jobs.folder / 'run'}", "photos/test", f"--output={one}")[0] == 0
    pd.testing.assert_frame_equal(pd.read_csv(one), pd.read_csv(jobs.folder / "two.csv"), atol=1e-5)


def test_a_signal_to_one_stops_both_and_the_run_goes_on(
    jobs: Jobs, vit_pipeline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.first["stopped"]["code"] == jobs.second["stopped"]["code"] == 143, jobs.first["stopped"]
    assert jobs.first["goes on"]["code"] == jobs.second["goes on"]["code"] == 0, jobs.first["goes on"]
    monkeypatch.chdir(jobs.folder / "same")
    whole = jobs.folder / "whole"
    assert vit_pipeline(*jobs.train, "--num_train_epochs=20", f"--output_dir={whole}")[0] == 0
    states = [read_json(folder / TRAINER_STATE) for folder in (whole, jobs.folder / "stopped")]
    assert states[0]["global_step"] == states[1]["global_step"] == 60
    assert losses(states[0], "eval_loss") == pytest.approx(losses(states[1], "eval_loss"), abs=1e-3)


def test_processes_that_disagree_are_refused_by_rank(jobs: Jobs) -> None:
    flags = jobs.refusal("other flags")
    assert flags.startswith("rank 1: all processes must agree: learning_rate is 0.0001, and 0.003 in rank 0; seed is 7")
    assert jobs.refusal("other images").startswith("rank 1: all processes must agree: fingerprint is ")
    fewer = jobs.refusal("fewer images")
    assert fewer.startswith(
        "rank 1: all processes must agree: the number of images is train 35, and train 36 in rank 0"
    )
    assert jobs.refusal("bad flag there").startswith("rank 1: unknown flag --learning_rat ")
    assert not (jobs.folder / "same" / "no").exists()


def test_what_all_refuse_is_said_once(jobs: Jobs) -> None:
    assert jobs.refusal("bad flag").startswith("unknown flag --learning_rat ")
    assert jobs.refusal("indivisible") == "--global_batch_size 7 is no multiple of the 2 processes"
    image = jobs.refusal("bad image")
    assert image.startswith("train: 1 of 36 images cannot be read: ")
    assert "003.png" in image


def assert_same_run(one: Path, two: Path) -> None:
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    assert read_json(two / RECORD)["machine"]["processes"] == 2
    assert RunFolder(one).arguments == RunFolder(two).arguments
    states = [read_json(folder / TRAINER_STATE) for folder in (one, two)]
    assert states[0]["global_step"] == states[1]["global_step"] == 9
    assert losses(states[0]) == pytest.approx(losses(states[1]), abs=1e-5)
    assert losses(states[0], "eval_loss") == pytest.approx(losses(states[1], "eval_loss"), abs=1e-5)
    assert len(losses(states[0])) >= 9
    assert_same_predictions(one, two, tolerance=1e-3)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    for name, weight in weights[0].items():
        assert np.allclose(weight, weights[1][name], atol=1e-3), name


def losses(state: dict[str, Any], name: str = "loss") -> list[float]:
    return [row[name] for row in state["log_history"] if name in row]


def assert_same_predictions(one: Path, two: Path, *, tolerance: float) -> None:
    (splits, names), (others, other_names) = (read_predictions(folder / PREDICTIONS) for folder in (one, two))
    assert names == other_names
    assert [split.split for split in splits] == [split.split for split in others]
    for split, other in zip(splits, others, strict=True):
        assert split.ids == other.ids
        assert split.labels.tolist() == other.labels.tolist()
        assert split.logits.argmax(1).tolist() == other.logits.argmax(1).tolist()
        assert np.abs(split.logits - other.logits).max() < tolerance
