"""The text table shows the metrics of the results with intervals and numbers of images."""

from pathlib import Path

from pipeline.reporting.summary import format_accuracy, format_percent, summarize, table
from pipeline.runs.files import read_json
from pipeline.runs.folder import RESULTS


def with_interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


METRICS = (
    {"eval_samples": 1020, "test_samples": 400}
    | with_interval("eval_accuracy", 0.91266, 0.8941, 0.92861)
    | with_interval("test_accuracy", 1.0, 0.99, 1.0)
    | with_interval("test_top5_accuracy", 1.0, 0.99, 1.0)
    | with_interval("test_macro_accuracy", 0.05, 0.0, 0.1)
)


def test_an_accuracy_is_formatted_with_its_interval() -> None:
    assert format_accuracy(METRICS, "eval_accuracy") == "91.27% [89.4, 92.9]"
    assert format_accuracy(METRICS, "eval_top5_accuracy") == ""
    assert format_percent(0.8742) == "87.42%"


def test_the_summary_contains_only_evaluated_splits_and_computed_metrics() -> None:
    validation, test = summarize(METRICS)
    assert (validation.split, validation.images, list(validation.accuracies)) == ("validation", 1020, ["top-1"])
    assert (test.split, test.images) == ("test", 400)
    assert list(test.accuracies) == ["top-1", "top-5", "mean per class"]


def test_the_table_has_one_line_per_evaluated_split() -> None:
    validation, test = table(METRICS).splitlines()
    assert validation == "validation  top-1 91.27% [89.4, 92.9]   (1020 images)"
    accuracies = "top-1 100.00% [99.0, 100.0]   top-5 100.00% [99.0, 100.0]   mean per class 5.00% [0.0, 10.0]"
    assert test == f"test        {accuracies}   (400 images)"


def test_the_split_with_all_images_is_named_all_images() -> None:
    results = {key.replace("eval_", "all_"): value for key, value in METRICS.items() if key.startswith("eval_")}
    assert table(results) == "all images  top-1 91.27% [89.4, 92.9]   (1020 images)"


def test_the_table_is_empty_without_evaluated_splits() -> None:
    assert table({"train_loss": 0.1}) == ""


def test_the_table_of_a_finished_run_shows_validation_and_test(finished_run: Path) -> None:
    lines = table(read_json(finished_run / RESULTS)).splitlines()
    assert [line.split()[0] for line in lines] == ["validation", "test"]
    assert all(line.endswith("(18 images)") for line in lines)
