"""Charts as inline SVG, in the colors of the page (`assets/report.css`): they follow its light or dark theme."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting.markup import element

WIDTH, HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 26, 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """The range of an axis.

    Attributes:
        label: What it shows.
        low: Smallest value.
        high: Largest value.
        ticks: The values that are written out.
        write: Value -> text of a tick.
        log: Whether the axis is logarithmic.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    write: Callable[[float], str]
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value is, from 0 to 1."""
        low, high, at = ((math.log(v) for v in (self.low, self.high, value)) if self.log
                         else (self.low, self.high, value))  # fmt: skip
        return (at - low) / ((high - low) or 1)


@dataclass(frozen=True)
class Series:
    """Values of a chart.

    Attributes:
        name: Its name in the legend; empty: it has no entry there.
        points: (x, y), in the order of x.
        style: Class in the style sheet: `main`, `other` (for a comparison) or `reference` (dashed, no data).
        dots: Whether each point is marked.
        intervals: (low, high) of each point, drawn as vertical lines.
        label: A text next to the highest point.
    """

    name: str
    points: Sequence[Point]
    style: str = "main"
    dots: bool = False
    intervals: Sequence[Point] = ()
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart of lines and points.

    Attributes:
        title: What it shows, for screen readers.
        x: Horizontal axis.
        y: Vertical axis.
        series: The values. Later series are drawn above earlier ones.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]

    def svg(self) -> Markup:
        """Return the chart as SVG."""

        def at(point: Point) -> Point:
            across, up = self.x.place(point[0]), self.y.place(point[1])
            return (
                round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
                round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
            )

        parts = [element("g", *_grid(self.x, self.y, at), class_="grid")]
        parts += [part for each in self.series for part in _draw(each, at)]
        parts += _legend([each for each in self.series if each.name])
        parts += _labels([each for each in self.series if each.label], at)
        return element(
            "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=self.title, class_="chart"
        )


def linear_axis(label: str, values: Sequence[float], *, write: Callable[[float], str] = "{:g}".format) -> Axis:
    """Return an axis from zero, or from below the smallest value if it is negative, to above the largest value."""
    low, high = min(0.0, *values), max(values)
    step = _nice_step((high - low) or 1)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    ticks = [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]
    return Axis(label, ticks[0], ticks[-1], ticks, write)


def fraction_axis(label: str) -> Axis:
    """Return an axis of fractions from 0% to 100%."""
    return Axis(label, 0, 1, (0, 0.25, 0.5, 0.75, 1), "{:.0%}".format)


def log_axis(label: str, values: Sequence[float]) -> Axis:
    """Return a logarithmic axis whose ticks are the values."""
    return Axis(label, min(values), max(values), values, "{:g}".format, log=True)


def interval_bar(value: float | None, low: float, high: float) -> Markup:
    """Return a mark of a table cell: a fraction and its interval. The cell has the numbers, so it is not read aloud."""
    if value is None:
        return Markup("")
    left, width = f"{100 * low:.1f}", f"{100 * (high - low):.1f}"
    parts = [
        element("rect", x=0, y=4, width=100, height=2, class_="track"),
        element("rect", x=left, y=1, width=width, height=8, class_="span"),
        element("rect", x=f"{98 * value:.1f}", y=0, width=2, height=10, class_="value"),
    ]
    return element("svg", *parts, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true", class_="meter")


def _nice_step(span: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that divides a span into four parts or more."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return max(factor * power for factor in (1, 2, 5, 10) if factor * power <= span / 4 * 1.0001)


def _grid(x: Axis, y: Axis, at: Callable[[Point], Point]) -> list[Markup]:
    parts = []
    for tick in y.ticks:
        left, height = at((x.low, tick))
        parts.append(element("path", d=f"M{left} {height}H{WIDTH - _RIGHT}"))
        parts.append(element("text", y.write(tick), x=left - 6, y=height + 4, text_anchor="end"))
    last = -math.inf
    for tick in x.ticks:
        across, _ = at((tick, y.low))
        if across - last >= 28:  # narrower, and the texts would touch
            parts.append(element("text", x.write(tick), x=across, y=HEIGHT - _BOTTOM + 15, text_anchor="middle"))
            last = across
    center = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(element("text", x.label, x=center, y=HEIGHT - 6, text_anchor="middle"))
    return parts


def _draw(series: Series, at: Callable[[Point], Point]) -> list[Markup]:
    places = [at(point) for point in series.points]
    parts = []
    for (across, _), (low, high) in zip(series.points, series.intervals, strict=False):
        (left, bottom), (_, top) = at((across, low)), at((across, high))
        parts.append(element("path", d=f"M{left} {bottom}V{top}", class_=f"interval {series.style}"))
    if len(places) > 1:
        line = "L".join(f"{left} {height}" for left, height in places)
        parts.append(element("path", d=f"M{line}", class_=f"line {series.style}"))
    if series.dots or len(places) == 1:
        parts += [element("circle", cx=left, cy=height, r=3, class_=f"dot {series.style}") for left, height in places]
    return parts


def _legend(series: Sequence[Series]) -> list[Markup]:
    parts, left = [], float(_LEFT)
    for each in series:
        parts.append(element("path", d=f"M{left:.0f} 11h18", class_=f"line {each.style}"))
        parts.append(element("text", each.name, x=f"{left + 23:.0f}", y=15))
        left += 23 + 6.5 * len(each.name) + 16
    return [element("g", *parts, class_="legend")]


def _labels(series: Sequence[Series], at: Callable[[Point], Point]) -> list[Markup]:
    """Return the labels, each next to its point, or a little above or below where it covers no point and no label."""
    taken = [(up + 4, across - 4, across + 4) for each in series for across, up in map(at, each.points)]
    parts = []
    for each in series:
        across, up = at(max(each.points, key=lambda point: point[1]))
        width = 6.2 * len(each.label)
        is_left = across + 8 + width > WIDTH
        start = across - 8 - width if is_left else across + 8
        free = (up + 4 + 6 * step for step in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5))
        height = next((y for y in free if not any(abs(y - other) < 11 and start < end and begin < start + width
                                                  for other, begin, end in taken)), up + 4)  # fmt: skip
        taken.append((height, start, start + width))
        x, anchor = (across - 8, "end") if is_left else (across + 8, None)
        parts.append(element("text", each.label, x=round(x, 1), y=round(height, 1), text_anchor=anchor))
    return [element("g", *parts, class_="labels")] if parts else []
