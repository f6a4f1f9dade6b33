"""`Run` returns what the files of a finished run contain."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.errors import PipelineError
from pipeline.reporting import summary
from pipeline.reporting.run import Run
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import PREDICTIONS, RECIPE, RECORD, RESULTS, TRAINER_STATE


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run without its checkpoints."""
    return shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))


@pytest.fixture
def run(finished_run: Path) -> Run:
    return Run(finished_run)


def cells_of(text: str, tag: str) -> list[str]:
    return re.findall(f"<{tag} [^>]*>(.*?)</{tag}>", text)


def test_a_run_is_opened_by_path_or_string(finished_run: Path) -> None:
    assert Run(finished_run).folder == Run(str(finished_run)).folder == finished_run


def test_metrics_and_settings_are_those_of_the_files(run: Run) -> None:
    assert run.metrics == read_json(run.folder / RESULTS)
    assert run.metrics["test_accuracy"] > 0.5
    assert run.settings == yaml.safe_load((run.folder / RECIPE).read_text())
    assert run.settings["learning_rate"] == 3e-3


def test_predictions_have_class_names_and_probabilities(run: Run) -> None:
    predictions = run.predictions
    assert list(predictions.columns) == ["split", "id", "label", "prediction", "probability", "correct"]
    table = pq.read_table(run.folder / PREDICTIONS)
    assert predictions["split"].tolist() == table.column("split").to_pylist()
    assert predictions["id"].tolist() == table.column("id").to_pylist()
    names = ["blue", "green", "red"]
    assert predictions["label"].tolist() == [names[number] for number in table.column("label").to_pylist()]
    probabilities, predicted = torch.tensor(table.column("logits").to_pylist()).softmax(dim=1).max(dim=1)
    assert predictions["prediction"].tolist() == [names[number] for number in predicted.tolist()]
    assert predictions["probability"].tolist() == pytest.approx(probabilities.tolist(), abs=1e-6)
    assert predictions["probability"].dtype == float
    assert predictions["correct"].dtype == bool


def test_the_metrics_can_be_recomputed_from_the_predictions(run: Run) -> None:
    accuracy = run.predictions.groupby("split")["correct"].mean()
    assert accuracy["validation"] == pytest.approx(run.metrics["eval_accuracy"])
    assert accuracy["test"] == pytest.approx(run.metrics["test_accuracy"])
    assert (run.predictions["correct"] == (run.predictions["label"] == run.predictions["prediction"])).all()


def test_the_history_has_one_row_per_log_entry(run: Run) -> None:
    entries = read_json(run.folder / TRAINER_STATE)["log_history"]
    assert len(run.history) == len(entries) > 3
    evaluations = [entry for entry in entries if "eval_accuracy" in entry]
    assert run.history["eval_accuracy"].dropna().tolist() == [entry["eval_accuracy"] for entry in evaluations]
    assert run.history["step"].tolist() == [entry["step"] for entry in entries]


def test_the_history_of_a_run_without_trainer_is_empty(copied_run: Path) -> None:
    (copied_run / TRAINER_STATE).unlink()
    history = Run(copied_run).history
    assert isinstance(history, pd.DataFrame)
    assert history.empty


def test_the_text_is_the_summary_table_and_the_folder(run: Run) -> None:
    assert str(run) == repr(run) == f"{summary.table(run.metrics)}\n{run.folder} is finished"


def test_the_html_table_shows_accuracies_and_numbers_of_images(run: Run) -> None:
    text = run._repr_html_()
    assert cells_of(text, "th") == ["split", "top-1", "mean per class", "images"]
    cells = cells_of(text, "td")
    assert cells[0] == "validation"
    assert cells[1] == summary.format_accuracy(run.metrics, "eval_accuracy")
    assert cells[3] == "18"
    assert cells[4] == "test"
    assert f">{run.folder.name}: accuracy with 95% interval<" in text


def test_the_html_table_leaves_the_cell_of_a_missing_metric_empty(copied_run: Path) -> None:
    top5 = {"test_top5_accuracy": 0.9, "test_top5_accuracy_low": 0.8, "test_top5_accuracy_high": 0.95}
    write_json(copied_run / RESULTS, read_json(copied_run / RESULTS) | top5)
    cells = cells_of(Run(copied_run)._repr_html_(), "td")
    assert cells[2] == ""
    assert cells[7] == "90.00% [80.0, 95.0]"


def test_the_html_table_escapes_the_folder_name(copied_run: Path) -> None:
    odd = copied_run.rename(copied_run.with_name("<b>&run"))
    assert "&lt;b&gt;&amp;run" in (text := Run(odd)._repr_html_())
    assert "<b>" not in text


def test_a_folder_without_a_run_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=re.escape(str(tmp_path))):
        Run(tmp_path)
    with pytest.raises(PipelineError, match="missing"):
        Run(tmp_path / "missing")


def test_an_unfinished_run_is_rejected(copied_run: Path) -> None:
    write_json(copied_run / RECORD, read_json(copied_run / RECORD) | {"status": "running"})
    with pytest.raises(PipelineError, match="not finished"):
        Run(copied_run)


def test_reading_a_run_loads_no_torch(finished_run: Path) -> None:
    code = """
import sys
from pipeline.reporting.run import Run
run = Run(sys.argv[1])
assert "pandas" not in sys.modules
run.metrics, run.settings, run.history, run.predictions, str(run), run._repr_html_()
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, finished_run], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
