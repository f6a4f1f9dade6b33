"""Trackers get the confusion matrix next to the curves of the run."""

import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.plots.trackers import PLOT, log_confusion
from pipeline.reporting.plots.write import write_plots
from pipeline.reporting.run_files import RunFiles
from tests.reporting.made_runs import make_run, random_predictions

pytest.importorskip("matplotlib", reason="needs matplotlib")
NAMES = ["rose", "tulip", "iris"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    predictions = [random_predictions(split, 60, len(NAMES), skill=2.0) for split in ("validation", "test")]
    folder = make_run(tmp_path_factory.mktemp("runs") / "flowers", predictions, NAMES)
    write_plots(RunFiles.read(folder))
    return folder


def test_tensorboard_gets_the_confusion_matrix_next_to_the_curves(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    log_confusion(run, ["tensorboard"])
    assert list(tmp_path.iterdir()) == []  # the Trainer logged nothing
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("eval/accuracy", 0.5)
    log_confusion(run, [])
    log_confusion(run, ["tensorboard"])
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["confusion_matrix"]
    image = events.Images("confusion_matrix")[0]
    assert image.width == image.height > 300


def test_wandb_gets_the_confusion_matrix_in_the_run_of_the_trainer(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_confusion(run, ["wandb"])  # the Trainer logged nothing
    assert wandb.run is None
    tracked = wandb.init(project="flowers", dir=str(tmp_path))
    log_confusion(run, ["wandb"])
    assert tracked.summary["confusion_matrix"]["_type"] == "image-file"
    (sent,) = Path(tracked.dir).rglob("confusion_matrix*.png")
    assert sent.read_bytes() == (run / PLOT).read_bytes()
    tracked.finish()


def test_mlflow_gets_the_confusion_matrix_in_the_run_of_the_trainer(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    log_confusion(run, ["mlflow"])  # the Trainer logged nothing
    assert list(tmp_path.rglob("*.png")) == []
    mlflow.create_experiment("flowers")
    with mlflow.start_run(experiment_id=mlflow.get_experiment_by_name("flowers").experiment_id):
        pass
    log_confusion(run, ["mlflow"])
    (sent,) = tmp_path.rglob("figures/*.png")
    assert sent.read_bytes() == (run / PLOT).read_bytes()


def test_a_tracker_that_cannot_be_served_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "events.out.tfevents.1").mkdir()
    (tmp_path / "runs").write_text("a file")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_image", None)
    with caplog.at_level(logging.WARNING):
        log_confusion(run, ["clearml", "tensorboard"])
    first, second = [record.getMessage() for record in caplog.records]
    assert first == f"{PLOT} is not sent to clearml: upload it yourself"
    assert second.startswith(f"{PLOT} is not sent to tensorboard: ")
