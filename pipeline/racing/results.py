"""The standings of a race as text, as a CSV file and as a page."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.config.names import ASSETS
from pipeline.racing.chart import accuracy_and_throughput
from pipeline.racing.standings import p_text
from pipeline.reporting.charts.chart import Chart
from pipeline.reporting.markup import render_template
from pipeline.reporting.summary import format_accuracy
from pipeline.runs.files import atomic_write, write_json, write_text
from pipeline.runs.spreadsheet import write_csv

JSON, CSV, PAGE = "race.json", "race.csv", "race.html"
_FIRST = 3  # columns that the page writes by itself: rank, backbone, strategy


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `race.json`, `race.csv`, `race.html` and, with matplotlib, the chart in `figures/`.

    Raises:
        PipelineError: If a file cannot be written.
    """
    rows = results["rows"]
    cells = [
        ["x".join(map(str, cell)) if isinstance(cell, list | tuple) else cell for cell in row.values()] for row in rows
    ]
    write_csv(folder / CSV, list(rows[0]), cells)
    write_text(folder / PAGE, page(results))
    _write_figures(folder, accuracy_and_throughput(rows))
    write_json(folder / JSON, results)


def _write_figures(folder: Path, chart: Chart | None) -> None:
    if chart is None or importlib.util.find_spec("matplotlib") is None:
        return
    from pipeline.reporting.plots import draw  # matplotlib is optional, and slow to import

    figure = draw.draw_chart(chart)
    (folder / "figures").mkdir(exist_ok=True)
    for kind in ("svg", "png"):
        with atomic_write(folder / "figures" / f"accuracy-and-throughput.{kind}") as temporary:
            draw.save(figure, temporary, kind)


def text(results: Mapping[str, Any]) -> str:
    """Return the table and the conclusions for a terminal."""
    columns = list(_columns(results["rows"]))
    table = [[title for title, _ in columns]]
    for row in results["rows"]:
        cells = [to_text(row) for _, to_text in columns]
        table.append([*cells[:_FIRST], f"failed: {row['error']}"] if row["error"] else cells)
    complete = [cells for cells in table if len(cells) == len(columns)]
    widths = [max(len(cells[place]) for cells in complete) for place in range(len(columns))]
    widths[:_FIRST] = (max(len(cells[place]) for cells in table) for place in range(_FIRST))
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)) for cells in table]
    return "\n".join([*(line.rstrip() for line in lines), "", *results["conclusions"], f"({_origin(results)})"])


def page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    columns = list(_columns(results["rows"]))[_FIRST:]
    best = next((row for row in results["rows"] if row["chosen"]), None)
    return render_template(
        "race.html",
        style=Markup(style),
        data=results["data"]["name"],
        origin=_origin(results),
        best=best,
        accuracy="" if best is None else f"{100 * best['validation_accuracy']:.1f}%",
        conclusions=results["conclusions"],
        columns=[title for title, _ in columns],
        rows=[(row, [to_text(row) for _, to_text in columns]) for row in results["rows"] if not row["error"]],
        failed=[row for row in results["rows"] if row["error"]],
        chart=accuracy_and_throughput(results["rows"]),
        notes=list(_notes(results)),
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Callable[[Mapping[str, Any]], str]]]:
    """Yield title and writer of each column. A column without a value is skipped."""
    yield "#", lambda row: str(row["rank"])
    yield "backbone", lambda row: str(row["backbone"])
    yield "strategy", lambda row: str(row["strategy"])
    yield "validation accuracy", lambda row: _percent(row, "validation")
    yield "against the best", _verdict
    if any(row["test_accuracy"] is not None for row in rows):
        yield "test accuracy (not used to choose)", lambda row: _percent(row, "test")
    numbers: dict[str, tuple[str, Callable[[Any], str]]] = {
        "parameters": ("parameters", lambda value: f"{value / 1e6:.3g} M"),
        "GFLOPs": ("gflops", "{:.3g}".format),
        "px": ("input_size", lambda value: str(value[0]) if value[0] == value[1] else "x".join(map(str, value))),
        "training images/s": ("train_images_per_second", "{:.3g}".format),
        "prediction images/s": ("predict_images_per_second", "{:.3g}".format),
        "GPU memory": ("memory_gb", "{:.3g} GB".format),
    }
    for title, (key, to_text) in numbers.items():
        if any(row[key] is not None for row in rows):
            yield title, lambda row, key=key, to_text=to_text: "" if row[key] is None else to_text(row[key])  # type: ignore[misc]
    yield "license", lambda row: row["license"] or "unknown"


def _percent(row: Mapping[str, Any], split: str) -> str:
    return "" if row[f"{split}_accuracy"] is None else format_accuracy(row, f"{split}_accuracy")


def _verdict(row: Mapping[str, Any]) -> str:
    if row["chosen"]:
        return "best"
    if row["p_value"] is None:
        return ""
    return f"tie, {p_text(row)}" if row["tied"] else p_text(row)


def _origin(results: Mapping[str, Any]) -> str:
    data, machine = results["data"], results["machine"]
    counts = ", ".join(f"{count:,} {name}" for name, count in data["samples"].items())
    device = "" if machine["device"] == "cpu" else f"{machine['device']} with "
    return (
        f"{data['name']}: {counts} images of {data['classes']} classes; "
        f"measured on {device}{machine['cpus']} CPU cores, features in {machine['precision']}"
    )


def _notes(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the columns were measured."""
    yield (
        "Accuracies have 95% Wilson intervals. The linear probe is a logistic regression on frozen features. "
        "Validation also chose its regularization and the number of neighbors."
    )
    yield (
        "Each entry is compared with the best model by an exact McNemar test on the validation images, corrected by "
        "Holm. A tie is p >= 0.05."
    )
    yield (
        "Training images/s: three steps of fine-tuning without their input, or the complete fine-tuning. Prediction "
        "images/s: fp32, in batches of 32, without decoding. For the soft vote, they are computed from its members."
    )
    yield "FLOPs are those of the forward pass for one image. A multiplication and an addition are two FLOPs."
    if not any(row["memory_gb"] is not None for row in results["rows"]):
        yield "Memory is measured on GPUs only, because a CPU process holds more than the network."
