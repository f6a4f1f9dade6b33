"""Two processes are equal to one: the same training and predictions, each file once, output only from rank 0."""

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
from tests.conftest import noisy_image
from tests.launch.conftest import launcher

Cli = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Jobs:
    """The results of two ranks.

    Attributes:
        folder: Folder with the data and the outputs of all jobs.
        train: Command line of the training jobs.
        rank0: Exit code, stdout and stderr of each job on rank 0.
        rank1: The same on rank 1.
    """

    folder: Path
    train: list[str]
    rank0: dict[str, Any]
    rank1: dict[str, Any]

    def error(self, name: str) -> str:
        """Return the error message of a job that both ranks reject."""
        assert self.rank0[name]["code"] == self.rank1[name]["code"] == 2, self.rank0[name]
        message: str = self.rank0[name]["err"]
        return message.partition("error: ")[2].strip()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path, photos: Path) -> Jobs:
    """Run all jobs of this module in one launch, because starting processes takes longer than any job."""
    folder = tmp_path_factory.mktemp("two")
    copy_photos(photos, folder)
    train = ["train", f"--model_name_or_path={tiny_vit}", "--dataset_name=photos", "--precision=fp32"]
    train += ["--learning_rate=3e-3", "--global_batch_size=12", "--num_train_epochs=3", "--dataloader_num_workers=0"]
    stopped = [*train, "--num_train_epochs=20", f"--output_dir={folder / 'stopped'}"]
    run = [*train, f"--output_dir={folder / 'run'}"]
    commands: dict[str, dict[str, Any]] = {
        "train": {"arguments": run},
        "finished run": {"arguments": run},
        "device cache": {"arguments": [*train, "--image_cache=device", f"--output_dir={folder / 'device'}"]},
        "evaluate": {"arguments": ["evaluate", f"--model={folder / 'run'}", f"--output_dir={folder / 'scores'}"]},
        "predict": {
            "arguments": ["predict", f"--model={folder / 'run'}", "photos/test", f"--output={folder / 'two.csv'}"]
        },
        "other flags": {"arguments": [*train, "--output_dir=no"], "arguments1": ["--learning_rate=1e-4", "--seed=7"]},
        "other images": {"arguments": [*train, "--output_dir=no"], "folder1": str(folder / "changed")},
        "fewer images": {"arguments": [*train, "--output_dir=no"], "folder1": str(folder / "fewer")},
        "bad image": {"arguments": [*train, "--output_dir=no"], "folder": str(folder / "broken")},
        "bad flag": {"arguments": [*train, "--learning_rat=1"]},
        "bad flag on rank 1": {"arguments": [*train, "--output_dir=no"], "arguments1": ["--learning_rat=1"]},
        "indivisible": {"arguments": [*train, "--global_batch_size=7"]},
        "stopped": {"arguments": stopped, "signal1": str(folder / "stopped" / "checkpoint-6")},
        "resumed": {"arguments": stopped},
    }
    jobs = {name: {"folder": str(folder / "same")} | job for name, job in commands.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with launcher(folder) as launch:
        launched = launch("--num_processes", 2, "-m", "tests.launch.worker", folder)
        output, _ = launched.communicate(timeout=400)
    assert launched.returncode == 0, output
    results = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return Jobs(folder, train, *results)


def copy_photos(photos: Path, folder: Path) -> None:
    """Copy the data four times: unchanged, with one resized image, with one image less, and with one broken image."""
    for name in ("same", "changed", "fewer", "broken"):
        shutil.copytree(photos, folder / name / "photos")
    changed, fewer, broken = (
        folder / name / "photos" / "train" / "red" / "003.png" for name in ("changed", "fewer", "broken")
    )
    noisy_image((9, 9, 9), 5, size=(31, 30)).save(changed)
    fewer.unlink()
    broken.write_bytes(broken.read_bytes()[:99])


def test_only_rank_0_prints(jobs: Jobs) -> None:
    assert {job["out"] + job["err"] for job in jobs.rank1.values()} == {""}
    assert "cpu x2" in jobs.rank0["train"]["err"]
    assert "was finished before; showing its results" in jobs.rank0["finished run"]["err"]


def test_training_with_two_processes_equals_training_with_one(
    jobs: Jobs, vit_pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.rank0["train"]["code"] == jobs.rank1["train"]["code"] == 0, jobs.rank0["train"]
    monkeypatch.chdir(jobs.folder / "same")
    one = jobs.folder / "one"
    assert vit_pipeline(*jobs.train, f"--output_dir={one}")[0] == 0
    assert_same_run(one, jobs.folder / "run")


def test_the_device_caches_of_two_processes_give_the_run_of_the_disk_cache(jobs: Jobs) -> None:
    assert jobs.rank0["device cache"]["code"] == jobs.rank1["device cache"]["code"] == 0, jobs.rank0["device cache"]
    assert "device cache: 54 images" in jobs.rank0["device cache"]["err"]
    disk, device = (read_json(jobs.folder / name / TRAINER_STATE) for name in ("run", "device"))
    assert losses(device) == losses(disk)
    assert losses(device, "eval_accuracy") == losses(disk, "eval_accuracy")
    weights = [load_file(jobs.folder / name / "model.safetensors") for name in ("run", "device")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_evaluation_with_two_processes_equals_evaluation_with_one(
    jobs: Jobs, vit_pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.rank0["evaluate"]["code"] == jobs.rank1["evaluate"]["code"] == 0, jobs.rank0["evaluate"]
    monkeypatch.chdir(jobs.folder / "same")
    one = jobs.folder / "one-scores"
    assert vit_pipeline("evaluate", f"--model={jobs.folder / 'run'}", f"--output_dir={one}")[0] == 0
    assert_same_predictions(one, jobs.folder / "scores", tolerance=1e-6)


def test_prediction_with_two_processes_equals_prediction_with_one(
    jobs: Jobs, vit_pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.rank0["predict"]["code"] == jobs.rank1["predict"]["code"] == 0, jobs.rank0["predict"]
    monkeypatch.chdir(jobs.folder / "same")
    one = jobs.folder / "one.csv"
    assert vit_pipeline("predict", f"--model={jobs.folder / 'run'}", "photos/test", f"--output={one}")[0] == 0
    pd.testing.assert_frame_equal(pd.read_csv(one), pd.read_csv(jobs.folder / "two.csv"), atol=1e-5)


def test_a_signal_to_one_rank_stops_both_ranks_and_the_run_resumes(
    jobs: Jobs, vit_pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.rank0["stopped"]["code"] == jobs.rank1["stopped"]["code"] == 143, jobs.rank0["stopped"]
    assert jobs.rank0["resumed"]["code"] == jobs.rank1["resumed"]["code"] == 0, jobs.rank0["resumed"]
    monkeypatch.chdir(jobs.folder / "same")
    uninterrupted = jobs.folder / "uninterrupted"
    assert vit_pipeline(*jobs.train, "--num_train_epochs=20", f"--output_dir={uninterrupted}")[0] == 0
    states = [read_json(folder / TRAINER_STATE) for folder in (uninterrupted, jobs.folder / "stopped")]
    assert states[0]["global_step"] == states[1]["global_step"] == 60
    assert losses(states[0], "eval_loss") == pytest.approx(losses(states[1], "eval_loss"), abs=1e-3)


def test_differences_between_ranks_are_rejected_and_name_the_rank(jobs: Jobs) -> None:
    flags = jobs.error("other flags")
    assert flags.startswith("rank 1: learning_rate is 0.0001, but 0.003 on rank 0; seed is 7, but ")
    assert jobs.error("other images").startswith("rank 1: fingerprint is ")
    fewer = jobs.error("fewer images")
    assert fewer.startswith("rank 1: the number of train images is 35, but 36 on rank 0")
    assert jobs.error("bad flag on rank 1").startswith("rank 1: unknown flag --learning_rat ")
    assert not (jobs.folder / "same" / "no").exists()


def test_an_error_on_all_ranks_is_shown_once(jobs: Jobs) -> None:
    assert jobs.error("bad flag").startswith("unknown flag --learning_rat ")
    assert jobs.error("indivisible") == (
        "--global_batch_size 7 is not a multiple of the number of processes: use a multiple of 2"
    )
    image = jobs.error("bad image")
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
    (splits, class_names), (other_splits, other_class_names) = (
        read_predictions(folder / PREDICTIONS) for folder in (one, two)
    )
    assert class_names == other_class_names
    assert [split.split for split in splits] == [split.split for split in other_splits]
    for split, other in zip(splits, other_splits, strict=True):
        assert split.ids == other.ids
        assert split.labels.tolist() == other.labels.tolist()
        assert split.logits.argmax(1).tolist() == other.logits.argmax(1).tolist()
        assert np.abs(split.logits - other.logits).max() < tolerance
