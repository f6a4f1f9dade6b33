"""The figures on a terminal are those of the results, each with its interval and its count."""

from pathlib import Path

from pipeline.reporting.summary import percent, table
from pipeline.runs.files import read_json
from pipeline.runs.folder import RESULTS


def with_interval(name: str, share: float, low: float, high: float) -> dict[str, float]:
    return {name: share, f"{name}_low": low, f"{name}_high": high}


FIGURES = (
    {"eval_samples": 1020, "test_samples": 400}
    | with_interval("eval_accuracy", 0.91266, 0.8941, 0.92861)
    | with_interval("test_accuracy", 1.0, 0.99, 1.0)
    | with_interval("test_top5_accuracy", 1.0, 0.99, 1.0)
    | with_interval("test_macro_accuracy", 0.05, 0.0, 0.1)
)


def test_a_figure_is_said_with_its_interval() -> None:
    assert percent(FIGURES, "eval_accuracy", "top-1") == "top-1 91.27 % [89.4, 92.9]"
    assert percent(FIGURES, "eval_top5_accuracy", "top-5") == ""


def test_a_line_for_each_split_that_was_scored() -> None:
    validation, test = table(FIGURES).splitlines()
    assert validation == "validation  top-1 91.27 % [89.4, 92.9]   (1020 images)"
    accuracies = "top-1 100.00 % [99.0, 100.0]   top-5 100.00 % [99.0, 100.0]   mean per class 5.00 % [0.0, 10.0]"
    assert test == f"test        {accuracies}   (400 images)"


def test_all_images_are_called_so() -> None:
    results = {key.replace("eval_", "all_"): value for key, value in FIGURES.items() if key.startswith("eval_")}
    assert table(results) == "all images  top-1 91.27 % [89.4, 92.9]   (1020 images)"


def test_nothing_scored_is_no_line() -> None:
    assert table({"train_loss": 0.1}) == ""


def test_a_finished_run_is_summed_up(finished_run: Path) -> None:
    lines = table(read_json(finished_run / RESULTS)).splitlines()
    assert [line.split()[0] for line in lines] == ["validation", "test"]
    assert all(line.endswith("(18 images)") for line in lines)
