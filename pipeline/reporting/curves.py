"""The charts of the report: training curves, learning curve, calibration and risk-coverage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.evaluation.confidence import reliability, risk_coverage
from pipeline.evaluation.examples import Scored
from pipeline.reporting.charts import Axis, Point, Series, chart, fraction_axis, linear_axis, log_axis
from pipeline.reporting.run_files import RunFiles

_MAX_POINTS = 200  # of a line


@dataclass(frozen=True)
class Figure:
    """A chart with its title, a sentence about it, and its numbers as a table.

    Attributes:
        title: What it shows.
        image: The chart.
        caption: What the reader sees in it.
        columns: Header of the table.
        rows: Cells of the table.
    """

    title: str
    image: Markup
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
            Series("training", _thin(losses), "other"),
            Series("validation", _thin(scores), dots=len(scores) <= 30),
        ]
        values = [value for _, value in [*losses, *scores]]
        yield Figure(
            "Loss",
            chart(
                "Training and validation loss by epoch", linear_axis("epoch", epochs), linear_axis("", values), series
            ),
            "Cross-entropy in nats. The training loss includes augmentation and label smoothing, if they were on.",
            ("epoch", "validation loss"),
            [(f"{epoch:g}", f"{value:.4f}") for epoch, value in _thin(scores)],
        )
    if accuracies:
        best = max(accuracies, key=lambda point: point[1])
        yield Figure(
            "Validation accuracy",
            chart(
                "Validation accuracy by epoch",
                linear_axis("epoch", epochs),
                fraction_axis(""),
                [Series("", _thin(accuracies), dots=len(accuracies) <= 30)],
            ),
            f"The highest accuracy, {best[1]:.2%}, was reached at epoch {best[0]:g}.",
            ("epoch", "validation accuracy"),
            [(f"{epoch:g}", f"{value:.2%}") for epoch, value in _thin(accuracies)],
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
        chart(
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


def reliability_figure(scored: Scored) -> Figure:
    """Return the accuracy of predictions by their confidence."""
    bins = reliability(scored.confidence, scored.correct)
    points = [(each.confidence, each.accuracy) for each in bins]
    gap = float(scored.confidence.mean() - scored.correct.mean())
    verdict = "overconfident" if gap > 0 else "underconfident"
    return Figure(
        "Reliability",
        chart(
            "Accuracy of the predictions by their confidence",
            fraction_axis("confidence"),
            fraction_axis(""),
            [
                Series("perfect calibration", [(0, 0), (1, 1)], "reference"),
                Series("accuracy, 95% interval", points, dots=True, intervals=[(e.low, e.high) for e in bins]),
            ],
        ),
        f"Mean confidence is {scored.confidence.mean():.1%}, accuracy {scored.correct.mean():.1%}: on average, the "
        f"model is {verdict} by {abs(100 * gap):.1f} points. Each point stands for about {bins[0].count:,} images.",
        ("confidence", "accuracy", "95% interval", "images"),
        [
            (f"{each.confidence:.1%}", f"{each.accuracy:.1%}", f"{each.low:.1%} to {each.high:.1%}", f"{each.count:,}")
            for each in bins
        ],
    )


def risk_figure(scored: Scored) -> Figure:
    """Return the error rate among the most confident predictions, by how many of the images they are."""
    curve = risk_coverage(scored.confidence, scored.correct)
    points = _thin([(float(share), float(risk)) for share, risk in zip(curve.coverage, curve.risk, strict=True)])
    half = next(risk for coverage, risk in points if coverage >= 0.5)
    parts = [next((point for point in points if point[0] >= tenth / 10 - 1e-9), points[-1]) for tenth in range(1, 11)]
    highest = max(risk for _, risk in points)
    top = next(limit for limit in (0.1, 0.25, 0.5, 1.0) if highest <= limit)
    wrong = Axis("", 0, 100 * top, [25 * top * quarter for quarter in range(5)], "{:.3g}%".format)
    return Figure(
        "Risk and coverage",
        chart(
            "Error rate of the most confident predictions by their share of the images",
            fraction_axis("share of the images that are answered"),
            wrong,
            [Series("", [(coverage, 100 * risk) for coverage, risk in points])],
        ),
        f"If only the more confident half of the images were answered, {half:.1%} of the answers would be wrong, "
        f"compared with {1 - scored.correct.mean():.1%} of all. The area under the curve (AURC) is {curve.area:.4f}.",
        ("images answered", "wrong answers"),
        [(f"{coverage:.0%}", f"{risk:.1%}") for coverage, risk in dict.fromkeys(parts)],
    )


def _thin(points: Sequence[Point]) -> list[Point]:
    """Return at most `_MAX_POINTS` points, evenly spaced, with the first and the last one."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    return [points[place] for place in np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int)]
