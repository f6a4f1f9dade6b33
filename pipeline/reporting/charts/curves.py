"""The charts of the training: loss, validation accuracy and the learning curve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.reporting.charts.chart import Chart, Point, Series, fraction_axis, linear_axis, log_axis
from pipeline.reporting.run_files import RunFiles

_MAX_POINTS = 200  # of a line


@dataclass(frozen=True)
class Figure:
    """A chart with its title, a sentence about it, and its numbers as a table.

    Attributes:
        title: What it shows.
        chart: The chart.
        caption: What the reader sees in it.
        columns: Header of the table.
        rows: Cells of the table.
    """

    title: str
    chart: Chart
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def training_figures(files: RunFiles) -> Iterator[Figure]:
    """Yield loss and validation accuracy by epoch. Nothing is yielded if the Trainer logged nothing."""
    history = (files.state or {}).get("log_history", [])
    losses, scores, accuracies = (
        [(float(row["epoch"]), float(row[key])) for row in history if key in row]
        for key in ("loss", "eval_loss", "eval_accuracy")
    )
    epochs = [epoch for epoch, _ in [*losses, *scores, *accuracies]]
    if losses or scores:
        series = [
            Series("training", thin(losses), "other"),
            Series("validation", thin(scores), dots=len(scores) <= 30),
        ]
        values = [value for _, value in [*losses, *scores]]
        yield Figure(
            "Loss",
            Chart(
                "Training and validation loss by epoch", linear_axis("epoch", epochs), linear_axis("", values), series
            ),
            "Cross-entropy in nats. The training loss includes augmentation and label smoothing, if they were on.",
            ("epoch", "validation loss"),
            [(f"{epoch:g}", f"{value:.4f}") for epoch, value in thin(scores)],
        )
    if accuracies:
        best = max(accuracies, key=lambda point: point[1])
        yield Figure(
            "Validation accuracy",
            Chart(
                "Validation accuracy by epoch",
                linear_axis("epoch", epochs),
                fraction_axis(""),
                [Series("", thin(accuracies), dots=len(accuracies) <= 30)],
            ),
            f"The highest accuracy, {best[1]:.2%}, was reached at epoch {best[0]:g}.",
            ("epoch", "validation accuracy"),
            [(f"{epoch:g}", f"{value:.2%}") for epoch, value in thin(accuracies)],
        )


def learning_curve_figure(files: RunFiles) -> Figure | None:
    """Return the accuracy of the linear probe by labels per class, None if it was not measured."""
    rows = files.results.get("learning_curve") or []
    points = [(float(row["images_per_class"]), float(row["accuracy"])) for row in rows]
    if len(points) < 2:
        return None
    (fewer, before), (most, after) = points[-2:]
    return Figure(
        "Learning curve",
        Chart(
            "Validation accuracy of the linear probe by training images per class",
            log_axis("training images per class", [count for count, _ in points]),
            fraction_axis(""),
            [Series("", points, dots=True)],
        ),
        f"From {fewer:g} to {most:g} training images per class, the linear probe on frozen features went from "
        f"{before:.1%} to {after:.1%} of the validation images. A curve that still rises means that more labels would "
        "help.",
        ("training images per class", "validation accuracy"),
        [(f"{count:g}", f"{accuracy:.2%}") for count, accuracy in points],
    )


def thin(points: Sequence[Point]) -> list[Point]:
    """Return at most `_MAX_POINTS` points, evenly spaced, with the first and the last one."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    return [points[place] for place in np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int)]
