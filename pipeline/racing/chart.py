"""Accuracy against throughput, one point for each network."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.racing.entry import ENSEMBLE
from pipeline.reporting.charts.chart import Axis, Chart, Series
from pipeline.reporting.markup import shorten

_LONGEST_NAME = 22
_NICE = (1, 2, 5)


def accuracy_and_throughput(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return the chart, or None if fewer than two networks were measured.

    A line joins the linear probe and the fine-tuning of a backbone.
    """
    shown = [row for row in rows if row["predict_images_per_second"] and row["validation_accuracy"] is not None]
    if len(shown) < 2:
        return None
    series = []
    for name in dict.fromkeys(row["backbone"] for row in shown):
        own = [row for row in shown if row["backbone"] == name]
        points = [(row["predict_images_per_second"], row["validation_accuracy"]) for row in own]
        intervals = [(row["validation_accuracy_low"], row["validation_accuracy_high"]) for row in own]
        label = ENSEMBLE if own[0]["strategy"] == ENSEMBLE else shorten(name.rpartition("/")[2], _LONGEST_NAME)
        style = "main" if any(row["chosen"] for row in own) else "other"
        series.append(Series("", points, style, dots=True, intervals=intervals, label=label))
    rates = [rate for each in series for rate, _ in each.points]
    ends = [end for each in series for interval in each.intervals for end in interval]
    return Chart(
        "Validation accuracy by images per second in prediction",
        _log_axis("images/s in prediction", rates),
        _accuracy_axis(ends),
        sorted(series, key=lambda each: each.style == "main"),
    )


def _log_axis(label: str, values: Sequence[float]) -> Axis:
    """Return a logarithmic axis with ticks at 1, 2 and 5 times powers of ten around the values."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [factor * 10.0**power for power in powers for factor in _NICE]
    first = max(tick for tick in ticks if tick <= low)
    last = min(tick for tick in ticks if tick >= high and tick > first)
    inside = [tick for tick in ticks if first <= tick <= last]
    return Axis(label, first, last, inside, "{:g}".format, log=True)


def _accuracy_axis(values: Sequence[float]) -> Axis:
    """Return an axis of fractions that ends at tenths, or at twentieths if the values are close together."""
    step = 0.1 if max(values) - min(values) > 0.2 else 0.05
    first, last = math.floor(min(values) / step), max(math.ceil(max(values) / step), math.floor(min(values) / step) + 1)
    ticks = [round(number * step, 2) for number in range(first, last + 1)]
    return Axis("", ticks[0], ticks[-1], ticks, "{:.0%}".format)
