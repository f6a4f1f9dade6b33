"""Charts are valid SVG whose marks are where the values are."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from pipeline.evaluation.confusion import confusion_matrix, order_by_confusion
from pipeline.reporting.charts.chart import Chart, Series, fraction_axis, interval_bar, linear_axis, log_axis
from pipeline.reporting.charts.confusion import MAX_CLASSES, confusion_chart


@pytest.mark.parametrize("values", [[0.0], [1e-9], [0.31], [2.85, 0.4], [10.0], [12345.0], [-3.0, 4.0], [0.0, 1.0]])
def test_a_linear_axis_spans_its_values_with_few_round_ticks(values: list[float]) -> None:
    axis = linear_axis("x", values)
    assert axis.low <= min(0.0, *values)
    assert axis.high >= max(values)
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])
    assert 2 <= len(axis.ticks) <= 12
    steps = [b - a for a, b in itertools.pairwise(axis.ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert f"{steps[0]:e}"[0] in "125"


def test_points_are_placed_on_linear_and_logarithmic_axes() -> None:
    axis = log_axis("images", [1, 10, 100])
    assert [axis.place(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])
    assert log_axis("images", [5]).place(5) == 0
    assert fraction_axis("share").place(0.25) == 0.25


def test_a_chart_draws_each_series_in_order() -> None:
    series = [
        Series("validation", [(0, 0.0), (10, 1.0)], dots=True, intervals=[(0, 0.2), (0.8, 1)]),
        Series("<one>", [(5, 0.5)], "other"),
    ]
    svg = ET.fromstring(Chart("A & B", linear_axis("epoch", [10]), fraction_axis(""), series).svg())
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "A & B"
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in svg.iter("circle")]
    assert dots[0][0] < dots[2][0] < dots[1][0]
    assert dots[0][1] > dots[2][1] > dots[1][1]
    assert dots[2] == pytest.approx(((dots[0][0] + dots[1][0]) / 2, (dots[0][1] + dots[1][1]) / 2), abs=0.1)
    assert len([path for path in svg.iter("path") if "interval" in path.get("class", "")]) == 2
    assert {"validation", "<one>", "epoch"} <= {text.text for text in svg.iter("text")}


def test_the_bar_of_a_cell_marks_value_and_interval() -> None:
    _, span, value = ET.fromstring(interval_bar(0.5, 0.25, 0.75))
    assert (span.get("x"), span.get("width"), value.get("x")) == ("25.0", "50.0", "49.0")
    assert interval_bar(None, 0, 0) == ""


def test_the_matrix_has_a_cell_for_each_count_that_is_not_zero() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, 50), rng.integers(0, 6, 50)
    matrix = confusion_matrix(labels, predicted, 6)
    names = ["rose", "<b>", "x" * 200, "\x1b[0m", "🌻", "ورد"]
    svg, shown = confusion_chart(matrix, names)
    tree = ET.fromstring(svg)
    titles = [cell[0].text or "" for cell in tree.iter("rect") if "cell" in cell.get("class", "")]
    assert shown == 6
    assert len(titles) == np.count_nonzero(matrix)
    assert sum(int(re.findall(r": (\d+) of \d+ images", title)[-1]) for title in titles) == 50
    order = order_by_confusion(matrix)
    row, column = order[0], order[1]
    if matrix[row, column]:
        assert any(title.startswith(names[row][:20]) for title in titles)
    assert "⟨U+001B⟩[0m" in svg
    assert max(len(title) for title in titles) < 200
    assert len([text for text in tree.iter("text") if "count" in text.get("class", "")]) == len(titles)


def test_with_many_classes_the_matrix_shows_those_with_the_most_mistakes() -> None:
    matrix = np.eye(200, dtype=np.int64)
    matrix[150, 199] = 5
    svg, shown = confusion_chart(matrix, [f"class {number}" for number in range(200)])
    assert shown == MAX_CLASSES
    assert "class 150: 5 of 6 images taken for class 199" in svg
