"""The chart, the table and the page of a race."""

import itertools
import re
from typing import Any

from pipeline.racing import results
from pipeline.racing.chart import accuracy_and_throughput
from pipeline.racing.entry import PROBE


def row(name: str, accuracy: float | None, rate: float | None, **changed: Any) -> dict[str, Any]:
    interval = (None, None) if accuracy is None else (accuracy - 0.03, accuracy + 0.03)
    measured = dict.fromkeys(("train_images_per_second", "memory_gb", "parameters", "gflops", "input_size", "license"))
    measured |= dict.fromkeys(
        ("test_accuracy", "test_accuracy_low", "test_accuracy_high", "p_value", "error", "folder")
    )
    return measured | {
        "rank": 1, "backbone": name, "strategy": PROBE, "chosen": False, "tied": False,
        "validation_accuracy": accuracy, "validation_accuracy_low": interval[0],
        "validation_accuracy_high": interval[1], "predict_images_per_second": rate,
    } | changed  # fmt: skip


def of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    data = {"name": "photos", "samples": {"train": 10}, "classes": 2}
    return {"rows": rows, "conclusions": [], "data": data, "machine": {"device": "cpu", "cpus": 2, "precision": "fp32"}}


def test_the_chart_has_a_point_for_each_network_and_no_label_covers_another() -> None:
    rows = [row(f"owner/network-{i}", 0.4 + 0.001 * i, 100.0 + i) for i in range(5)]
    rows += [row("owner/network-0", 0.5, 99.0, strategy="full", chosen=True), row("nearest", 0.3, None)]
    chart = accuracy_and_throughput(rows)
    assert chart is not None
    assert (chart.x.low, chart.x.high) == (50.0, 200.0)
    assert chart.y.low <= 0.37
    svg = str(chart.svg())
    assert svg.count("<circle") == 6
    labels = re.search(r'<g class="labels">(.*?)</g>', svg)
    assert labels is not None
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)"', labels[1]))
    assert len(heights) == 5
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 11
    assert accuracy_and_throughput(rows[:1]) is None


def test_columns_without_a_value_are_skipped_and_failures_are_named() -> None:
    rows = [row("vit", 0.5, 100.0, chosen=True, license="mit"), row("gone", None, None, rank=2, error="no such model")]
    header, first, second, *_ = results.text(of(rows)).splitlines()
    assert "GPU memory" not in header
    assert "test accuracy" not in header
    assert re.search(r"vit +linear probe +50.00% \[47.0, 53.0\] +best +100 +mit", first)
    assert second == "2  gone      linear probe  failed: no such model"


def test_the_page_shows_names_literally() -> None:
    page = results.page(of([row("<script>alert(1)</script>", 0.5, 100.0, chosen=True), row("b", 0.4, 10.0)]))
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
