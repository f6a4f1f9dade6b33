"""The standings of a race as text, as a CSV file and as a page."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.config.names import ASSETS
from pipeline.racing.chart import accuracy_and_throughput
from pipeline.reporting.charts.chart import interval_bar
from pipeline.reporting.markup import render_template
from pipeline.reporting.summary import format_accuracy
from pipeline.runs.files import write_json, write_text
from pipeline.runs.spreadsheet import write_csv

JSON, CSV, PAGE = "race.json", "race.csv", "race.html"


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `race.json`, `race.csv` and `race.html`.

    Raises:
        PipelineError: If a file cannot be written.
    """
    rows = results["rows"]
    cells = [
        ["x".join(map(str, cell)) if isinstance(cell, list | tuple) else cell for cell in row.values()] for row in rows
    ]
    write_csv(folder / CSV, list(rows[0]), cells)
    write_text(folder / PAGE, page(results))
    write_json(folder / JSON, results)


def text(results: Mapping[str, Any]) -> str:
    """Return the table and the conclusions for a terminal."""
    columns = list(_columns(results["rows"]))
    table = [[title for title, _ in columns], *([write(row) for _, write in columns] for row in results["rows"])]
    widths = [max(len(cells[place]) for cells in table) for place in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    ]
    return "\n".join([*lines, "", *results["conclusions"], f"({_origin(results)})"])


def page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    columns = [
        (title, write) for title, write in _columns(results["rows"]) if title not in ("#", "backbone", "strategy")
    ]
    rows = [
        {
            "number": row["rank"],
            "backbone": row["backbone"],
            "strategy": row["strategy"],
            "chosen": row["chosen"],
            "error": row["error"],
            "bar": Markup("") if row["error"] else interval_bar(*(row[f"validation_{key}"] for key in (
                "accuracy", "accuracy_low", "accuracy_high"))),
            "cells": [write(row) for _, write in columns],
        }
        for row in results["rows"]
    ]  # fmt: skip
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
        rows=rows,
        failed=[row for row in results["rows"] if row["error"]],
        chart=accuracy_and_throughput(results["rows"]),
        notes=list(_notes(results)),
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Callable[[Mapping[str, Any]], str]]]:
    """Yield title and writer of each column. A column without a value is skipped."""
    yield "#", lambda row: str(row["rank"])
    yield "backbone", lambda row: str(row["backbone"])
    yield "strategy", lambda row: str(row["strategy"])
    yield "validation accuracy", lambda row: f"failed: {row['error']}" if row["error"] else _percent(row, "validation")
    yield "compared with the best", _verdict
    if any(row["test_accuracy"] is not None for row in rows):
        yield "test accuracy (not used to choose)", lambda row: _percent(row, "test")
    numbers: dict[str, tuple[str, Callable[[Any], str]]] = {
        "M parameters": ("parameters", lambda value: f"{value / 1e6:.3g}"),
        "GFLOPs": ("gflops", "{:.3g}".format),
        "px": ("input_size", lambda value: str(value[0]) if value[0] == value[1] else "x".join(map(str, value))),
        "images/s, training": ("train_images_per_second", "{:.4g}".format),
        "images/s, prediction": ("predict_images_per_second", "{:.4g}".format),
        "GPU memory (GB)": ("memory_gb", "{:.3g}".format),
    }
    for title, (key, write) in numbers.items():
        if any(row[key] is not None for row in rows):
            yield title, lambda row, key=key, write=write: "" if row[key] is None else write(row[key])  # type: ignore[misc]
    yield "license", lambda row: "" if row["error"] else row["license"] or "not stated"


def _percent(row: Mapping[str, Any], split: str) -> str:
    return "" if row[f"{split}_accuracy"] is None else format_accuracy(row, f"{split}_accuracy")


def _verdict(row: Mapping[str, Any]) -> str:
    if row["chosen"]:
        return "the best"
    if row["p_value"] is None:
        return ""
    return f"within noise, p = {row['p_value']:.2g}" if row["tied"] else f"p = {row['p_value']:.2g}"


def _origin(results: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in results["data"]["samples"].items())
    machine = results["machine"]
    return (
        f"{results['data']['name']}: {counts} images of {results['data']['classes']} classes; measured on "
        f"{machine['device']}, {machine['cpus']} CPU cores, features in {machine['precision']}"
    )


def _notes(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the columns were measured."""
    yield (
        "Accuracies have 95% Wilson intervals. The linear probe is a logistic regression on frozen features. "
        "Validation also chose its regularization and the number of neighbors."
    )
    yield "p-values are those of exact McNemar tests against the best model on the validation images, corrected by Holm."
    yield (
        "Images/s in training: three steps of fine-tuning without their input, or the complete fine-tuning. Images/s in "
        "prediction: fp32, in batches of 32, without decoding. For the soft vote, they are computed from its members."
    )
    yield "FLOPs are those of the forward pass for one image. A multiplication and an addition are two FLOPs."
    if not any(row["memory_gb"] is not None for row in results["rows"]):
        yield "Memory is measured on GPUs only, because a CPU process holds more than the network."
