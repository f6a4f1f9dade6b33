"""Charts and the confusion matrix, drawn with matplotlib in one style.

The colors are those of Okabe and Ito, which the color-blind can tell apart. Texts are never read as formulas, and
characters that the font lacks are shown as their numbers.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.errors import visible
from pipeline.evaluation.confusion import Counts
from pipeline.reporting.charts.chart import Axis, Chart, Series
from pipeline.reporting.charts.confusion import MAX_CLASSES, order_classes
from pipeline.reporting.markup import shorten

BLUE, VERMILION, GRAY, INK = "#0072b2", "#d55e00", "#5f6770", "#1a1d21"
_FONT = "DejaVu Sans"  # matplotlib ships it, so plots look the same everywhere
_STYLE: dict[Any, Any] = {
    "font.family": _FONT, "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRAY,
    "xtick.color": GRAY, "ytick.color": GRAY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dfe3e7",
    "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.8,
    "svg.hashsalt": "vit-pipeline", "text.parse_math": False, "axes.unicode_minus": False,
}  # fmt: skip
_LINES: dict[str, dict[str, Any]] = {  # style of a series -> how it is drawn
    "main": {"color": BLUE, "marker": "o"},
    "other": {"color": VERMILION, "marker": "s"},
    "reference": {"color": GRAY, "linestyle": (0, (4, 3)), "linewidth": 1.1},
}
_DPI = 160
_MAX_COUNTED = 25  # up to this many classes, each cell shows its count
_LONGEST_NAME = 24


def draw_chart(chart: Chart) -> Figure:
    """Return a chart as a figure."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6))
        axes = figure.add_axes((0.12, 0.16, 0.83, 0.74))  # fixed, because a layout engine takes most of the time
        for series in chart.series:
            _draw_series(axes, series)
        for axis, spec in (("x", chart.x), ("y", chart.y)):
            _set_axis(axes, axis, spec)
        for series in filter(lambda each: each.label, chart.series):
            _annotate(axes, chart, series)
        axes.set_title(_writable(chart.title), loc="left", fontsize=9.5, wrap=True)
        if any(series.name for series in chart.series):
            axes.legend()
    return figure


def draw_confusion(matrix: Counts, class_names: Sequence[str]) -> Figure:
    """Return the confusion matrix as a figure: correct predictions are gray, mistakes vermilion.

    Rows are true classes. The strength of a color is the fraction of the images of the row, as in the report.
    """
    order = order_classes(matrix)
    counts = matrix[np.ix_(order, order)]
    share = counts / np.maximum(matrix.sum(axis=1)[order], 1)[:, None]
    strength = np.where(counts > 0, 0.25 + 0.75 * share, 0)[..., None]
    is_hit = np.eye(len(order), dtype=bool)[..., None]
    colors = np.where(is_hit, to_rgb(GRAY), to_rgb(VERMILION))
    names = [_writable(shorten(class_names[number], _LONGEST_NAME)) for number in order]
    size = 8.0 if len(order) <= _MAX_COUNTED else 6.0
    cell = 0.4 if len(order) <= _MAX_COUNTED else 0.105  # inches
    inside = max(3.6, cell * len(order))
    margin = 0.0092 * size * max(map(len, names)) + 0.5
    with mpl.rc_context(_STYLE | {"axes.grid": False, "font.size": size}):
        total = inside + margin + 0.4
        figure = Figure(figsize=(total, total))
        axes = figure.add_axes((margin / total, margin / total, inside / total, inside / total))
        axes.imshow(1 - strength * (1 - colors), interpolation="none")
        axes.set_axis_off()  # texts are faster than ticks
        for place, name in enumerate(names):
            axes.text(-0.7, place, name, ha="right", va="center")
            axes.text(place, len(order) - 0.3, name, ha="center", va="top", rotation=90)
        figure.text(0.01, (margin + inside / 2) / total, "true class", fontsize=9, rotation=90, va="center")
        figure.text((margin + inside / 2) / total, 0.01, "predicted class", fontsize=9, ha="center")
        some = f" ({MAX_CLASSES} of {len(class_names)} classes)" if len(order) < len(class_names) else ""
        axes.set_title(f"Confusion matrix{some}: correct in gray, mistakes in vermilion", loc="left", fontsize=9.5)
        if len(order) <= _MAX_COUNTED:
            for row, column in zip(*np.nonzero(counts), strict=True):
                dark = share[row, column] > 0.45
                axes.text(
                    column, row, str(counts[row, column]), ha="center", va="center", color="white" if dark else INK
                )
    return figure


def save(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure as `svg` or `png`, without the date."""
    with mpl.rc_context(_STYLE):  # not savefig, which draws every figure twice
        if kind == "svg":
            FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})
        else:
            figure.set_dpi(_DPI)
            FigureCanvasAgg(figure).print_png(path)


def _draw_series(axes: Axes, series: Series) -> None:
    across, up = ([point[side] for point in series.points] for side in (0, 1))
    style = dict(_LINES[series.style])
    if not series.dots and len(series.points) > 1:
        style.pop("marker", None)
    axes.plot(across, up, label=_writable(series.name) or None, markersize=4, **style)
    if series.intervals:
        low, high = zip(*series.intervals, strict=True)
        axes.vlines(across, low, high, colors=style["color"], linewidth=1.2, alpha=0.6)


def _annotate(axes: Axes, chart: Chart, series: Series) -> None:
    """Write the label of a series next to its highest point, on the side where there is more space."""
    point = max(series.points, key=lambda each: each[1])
    shift, side = (-6, "right") if chart.x.place(point[0]) > 0.6 else (6, "left")
    axes.annotate(
        _writable(series.label),
        point,
        xytext=(shift, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=7.5,
    )


def _set_axis(axes: Axes, name: str, axis: Axis) -> None:
    margin = 0.0 if axis.log else 0.02 * (axis.high - axis.low)
    ticks = list(axis.ticks)
    if axis.log:
        getattr(axes, f"set_{name}scale")("log")
        getattr(axes, f"{name}axis").set_minor_locator(NullLocator())
    else:
        getattr(axes, f"set_{name}lim")(axis.low - margin, axis.high + margin)
    shown = ticks[:: -(-len(ticks) // 12)]
    getattr(axes, f"set_{name}ticks")(shown, [axis.write(tick) for tick in shown])
    getattr(axes, f"set_{name}label")(_writable(axis.label))


def _writable(text: str) -> str:
    """Return a text in which each character that the font lacks is shown as its number."""
    known = _characters()
    return "".join(c if ord(c) in known else f"<U+{ord(c):04X}>" for c in visible(text))


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(_FONT)).get_charmap())
