import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, pipeline

from pipeline import cli
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.predictions import read_predictions
from pipeline.reporting.run import Run as FinishedRun
from pipeline.runs.checkpoints import newest_complete_checkpoint
from pipeline.runs.files import read_json
from pipeline.runs.folder import CARD, FIGURES, PREDICTIONS, PUBLISHED, RECIPE, RECORD, RESULTS, TRAINER_STATE
from pipeline.runs.publish import published_files
from tests.conftest import SHARED
from tests.runs.damage import DAMAGE

Run = Callable[..., tuple[int, str, str]]


def test_a_run_writes_exactly_the_documented_files(finished_run: Path) -> None:
    kept = {path.name for path in finished_run.iterdir() if not path.name.startswith("checkpoint-")}
    assert kept - {"figures"} == set(PUBLISHED)
    assert ("figures" in kept) == (importlib.util.find_spec("matplotlib") is not None)
    assert set(published_files(finished_run)) - set(FIGURES) == set(PUBLISHED)
    assert len(list(finished_run.glob("checkpoint-*"))) == 1


def test_it_learns_and_the_metrics_are_those_of_the_predictions(finished_run: Path) -> None:
    results = read_json(finished_run / RESULTS)
    assert results["eval_accuracy"] > 0.8
    predictions, names = read_predictions(finished_run / PREDICTIONS)
    assert names == ["blue", "green", "red"]
    assert [p.split for p in predictions] == ["validation", "test"]
    recomputed = scoring.all_metrics(predictions, names)
    assert recomputed == {key: results[key] for key in recomputed}
    by_hand = np.mean(predictions[1].logits.argmax(1) == predictions[1].labels)
    assert results["test_accuracy"] == by_hand
    assert results["test_samples"] == 18


def test_the_saved_model_equals_the_best_checkpoint(finished_run: Path) -> None:
    state = read_json(finished_run / TRAINER_STATE)
    best = finished_run / f"checkpoint-{state['best_global_step']}"
    saved, kept = load_file(finished_run / "model.safetensors"), load_file(best / "model.safetensors")
    assert saved.keys() == kept.keys()
    assert all((saved[name] == kept[name]).all() for name in saved)


def test_the_saved_folder_gives_the_same_answers_when_deployed(finished_run: Path, photos: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(finished_run)
    assert model.config.label2id == {"blue": 0, "green": 1, "red": 2}
    classify = pipeline("image-classification", model=str(finished_run))
    image = next((photos / "test" / "red").iterdir())
    answers = {answer["label"]: answer["score"] for answer in classify(str(image))}
    predictions, names = read_predictions(finished_run / PREDICTIONS)
    row = list(predictions[1].ids).index(image.relative_to(photos).as_posix())
    scores = np.exp(predictions[1].logits[row]) / np.exp(predictions[1].logits[row]).sum()
    assert answers == pytest.approx(dict(zip(names, scores.tolist(), strict=True)), abs=1e-5)


def test_the_record_has_no_path_of_this_machine(finished_run: Path) -> None:
    text = (finished_run / RECORD).read_text()
    assert str(finished_run.parent) not in text
    assert str(Path.home()) not in text.replace(str(Path.cwd()), "")
    record = json.loads(text)
    assert record["status"] == "finished"
    assert record["data"]["samples"] == {"train": 36, "validation": 18, "test": 18}
    assert record["machine"]["precision"] == "fp32"
    timings = record["timings"]
    assert timings.keys() >= {"data", "model", "images", "steps", "evaluations", "checkpoints", "score", "report"}
    parts = sum(timings[phase] for phase in ("images", "steps", "evaluations", "checkpoints"))
    assert 0 < parts <= timings["train"] + 0.1


def test_a_finished_run_shows_its_results_and_changes_nothing(
    finished_run: Path, train_flags: list[str], vit_pipeline: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    code, out, _ = vit_pipeline("train", *train_flags, f"--output_dir={finished_run}")
    assert code == 0
    assert "was finished before; showing its results" in caplog.text
    assert "validation" in out
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}


@pytest.mark.parametrize(
    ("name", "damage"), [(RESULTS, "half"), ("config.json", "absent"), ("model.safetensors", "flipped in the middle")]
)
def test_a_damaged_file_of_a_finished_run_is_written_again_without_training(
    finished_run: Path,
    train_flags: list[str],
    vit_pipeline: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    DAMAGE[damage](folder / name)
    _, _, err = vit_pipeline("push", f"--model={folder}", "--hub_model_id=ann/flowers")
    assert re.fullmatch(rf"error: .*run: {name} is \w+.*: repeat its `train` command, which writes it again\n", err)
    caplog.set_level("INFO", logger="pipeline")
    assert vit_pipeline("train", *train_flags, f"--output_dir={folder}")[0] == 0
    assert f"{name} is " in caplog.text
    assert "training was complete at step 18; loading the best checkpoint" in caplog.text
    metrics = [
        {k: v for k, v in read_json(each / RESULTS).items() if "runtime" not in k} for each in (finished_run, folder)
    ]
    assert metrics[0].items() >= {k: v for k, v in metrics[1].items() if k.startswith(("eval_", "test_"))}.items()
    for each in ("config.json", "model.safetensors"):
        assert (folder / each).read_bytes() == (finished_run / each).read_bytes()


def test_results_that_cannot_be_read_are_one_line(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    for name in (RESULTS, PREDICTIONS, TRAINER_STATE):
        DAMAGE["half"](tmp_path / "run" / name)
    run = FinishedRun(tmp_path / "run")
    for read in (lambda: run.metrics, lambda: run.predictions, lambda: run.history):
        with pytest.raises(PipelineError, match=r"cannot be read \(.*\): repeat the `train` command of the run"):
            read()


def test_the_recipe_of_a_run_repeats_it(finished_run: Path, tmp_path: Path) -> None:
    assert cli.main(["train", "--config", f"{finished_run}/recipe.yaml", f"--output_dir={tmp_path}/again"]) == 0
    first, again = (load_file(folder / "model.safetensors") for folder in (finished_run, tmp_path / "again"))
    assert all((first[name] == again[name]).all() for name in first)


def test_another_run_is_rejected_with_the_differences(
    finished_run: Path, train_flags: list[str], vit_pipeline: Run
) -> None:
    code, _, err = vit_pipeline("train", *train_flags, "--seed=1", f"--output_dir={finished_run}")
    assert code == 2
    assert "seed: 42 in the run folder, 1 on the command line" in err


def test_a_killed_run_resumes_and_ends_like_an_uninterrupted_one(
    train_flags: list[str], finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "pipeline", "train", *train_flags, f"--output_dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch   1.00" in line:
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
    assert process.returncode == 143
    assert newest_complete_checkpoint(folder) is not None
    assert not (folder / "model.safetensors").exists()
    assert cli.main(["train", *train_flags, f"--output_dir={folder}"]) == 0
    whole, halves = (load_file(f / "model.safetensors") for f in (finished_run, folder))
    assert all((whole[name] == halves[name]).all() for name in whole)


def test_a_run_on_the_device_cache_ends_the_same_and_a_resume_keeps_the_cache(
    train_flags: list[str], finished_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    run = [*train_flags, f"--output_dir={tmp_path}/run"]
    assert cli.main(["train", *run, "--image_cache=device"]) == 0
    record = read_json(tmp_path / "run" / RECORD)
    assert record["machine"]["image_cache"] == "device"
    (line,) = [r.getMessage() for r in caplog.records if "device cache" in r.getMessage()]
    assert line.startswith("device cache: 54 images, ")
    assert float(line.split()[-2]) == pytest.approx(record["machine"]["image_cache_mb"], rel=0.01)
    assert read_json(finished_run / RECORD)["machine"]["image_cache"] == "disk"
    disk, device = (load_file(folder / "model.safetensors") for folder in (finished_run, tmp_path / "run"))
    assert all((disk[name] == device[name]).all() for name in disk)
    (tmp_path / "run" / RECORD).write_text(json.dumps(record | {"status": "running"}))
    caplog.clear()
    assert cli.main(["train", *run]) == 0
    assert line in [r.getMessage() for r in caplog.records]


def test_a_missing_test_split_is_logged(
    train_flags: list[str], make_folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    flags = [*train_flags, f"--dataset_name={make_folder()}", "--max_steps=2", "--num_train_epochs=1"]
    assert cli.main(["train", *flags, f"--output_dir={tmp_path}/run"]) == 0
    results = read_json(tmp_path / "run" / RESULTS)
    assert "eval_accuracy" in results
    assert "test_accuracy" not in results
    assert "no test split" in caplog.text
    card = (tmp_path / "run" / CARD).read_text()
    assert "expect a lower accuracy on new images" in card


def test_the_recipe_states_the_settings_that_shaped_the_run(finished_run: Path) -> None:
    recipe = yaml.safe_load((finished_run / RECIPE).read_text())
    assert recipe["learning_rate"] == 3e-3
    assert recipe["precision"] == "fp32"
    assert recipe["split_seed"] == 42
    assert "output_dir" not in recipe


def test_a_tracker_gets_the_metrics(train_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    flags = [*train_flags, "--report_to=tensorboard", f"--output_dir={tmp_path}/run"]
    assert cli.main(["train", *flags]) == 0
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert "eval/accuracy" in events.Tags()["scalars"]
    if importlib.util.find_spec("matplotlib") is not None:
        assert events.Tags()["images"] == ["confusion_matrix"]


@pytest.mark.skipif(not (SHARED / "vit-tiny-imagenet-32px").is_dir(), reason="needs the shared photographs and ViT")
def test_a_real_vit_trains_on_real_photographs_at_twice_its_resolution(tmp_path: Path) -> None:
    flags = [f"--model_name_or_path={SHARED}/vit-tiny-imagenet-32px", f"--dataset_name={SHARED}/flowers102-64px"]
    limits = ["--max_train_samples=102", "--max_eval_samples=102", "--max_steps=2", "--image_size=64"]
    assert cli.main(["train", *flags, *limits, f"--output_dir={tmp_path}/run"]) == 0
    saved = read_json(tmp_path / "run" / "config.json")
    assert saved["image_size"] == 64
    assert saved["id2label"]["0"] == "pink primrose"
    assert read_json(tmp_path / "run" / RESULTS)["eval_samples"] == 102
