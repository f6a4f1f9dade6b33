"""`report.html` works in a browser: no errors, every image and link resolves, and the table sorts and searches."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting import report
from tests.browser import CHROMIUM, REPORT, needs_chromium, open_page
from tests.reporting.made_runs import make_run, random_predictions
from tests.reporting.pages import Page
from tests.reporting.test_report import ODD_NAMES, PROBE

pytestmark = needs_chromium

# What a reader does, and what the page then shows.
DRIVER = """
const all = (selector) => [...document.querySelectorAll(selector)];
const rows = () => all("#class-table tbody tr");
const column = (number) => rows().map((row) => row.cells[number].textContent.trim());
const press = (name) => all("th button").find((button) => button.textContent === name).click();
const visible = () => rows().filter((row) => row.offsetParent).map((row) => row.cells[1].textContent.trim());
const search = (text) => {
  const input = document.getElementById("class-input");
  input.value = text;
  input.dispatchEvent(new Event("input"));
  return [visible(), document.querySelector("#class-search output").textContent];
};
(async () => {
  const found = {};
  found.links = all("a[href]").map((link) => [link.hash, !!document.getElementById(link.hash.slice(1))]);
  const images = [...document.images];
  images.forEach((image) => { image.loading = "eager"; });
  found.images = await Promise.all(images.map((image) => image.decode().then(() => image.naturalWidth, () => 0)));
  const width = document.documentElement.clientWidth;
  found.window = innerWidth;
  found.overflow = document.documentElement.scrollWidth - width;
  found.wide = all("section *")
    .filter((each) => !each.closest(".scroll, svg, .hidden, .id bdi") && each.getBoundingClientRect().right > width + 1)
    .map((each) => each.outerHTML.slice(0, 200));
  found.initial = column(3);
  press("recall"); found.descending = column(3);
  press("recall"); found.ascending = column(3);
  press("class"); found.names = column(1);
  found.sorted = document.querySelectorAll("th[aria-sort]").length;
  press("precision"); found.precisions = column(5);
  found.search = search("SCRIPT");
  found.nothing = search("no such class");
  found.everything = search("");
  const cell = document.querySelector(".matrix .cell");
  cell.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  found.cell = [document.getElementById("matrix-cell").textContent, cell.querySelector("title").textContent];
  parent.postMessage(found, "*");
})();
"""
# A window has a minimum width, and a frame has not.
FRAME = f"""<!DOCTYPE html>
<script>{REPORT} addEventListener("message", (event) => report(event.data));</script>
<iframe src="report.html" style="border: 0; height: 900px; width: WIDTHpx"></iframe>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report with odd class names; one class is never predicted, another one has no images."""
    folder = tmp_path_factory.mktemp("page") / "run"
    names = [*ODD_NAMES, *(f"flower {number}" for number in range(20)), "never seen"]
    predictions = []
    for split in ("validation", "test"):
        made = random_predictions(split, 600, len(names) - 1, skill=2.0)
        made.logits[:, 3] = -50
        logits = np.pad(made.logits, ((0, 0), (0, 1)), constant_values=-50)
        predictions.append(dataclasses.replace(made, logits=logits))
    return report.write(make_run(folder, predictions, names, results=PROBE))


def dump(file: Path, profile: Path) -> tuple[str, list[str]]:
    """Return the page as it is after loading, and the errors on the console."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={profile}", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module", params=[390, 1280])
def found(page: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver finds in a copy of the page, whose security policy would reject the driver."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    copy = tmp_path_factory.mktemp("driven") / "report.html"
    copy.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    frame = copy.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(request.param)), encoding="utf-8")
    driven, errors = open_page(frame, copy.parent / "profile")
    assert errors == []
    assert driven["window"] == request.param
    return dict(driven)


def test_the_page_runs_its_script_and_no_other(page: Path, tmp_path: Path) -> None:
    dom, errors = dump(page, tmp_path / "profile")
    assert errors == []
    (form,) = Page(dom).all("form")
    assert "hidden" not in form.attributes
    injected = tmp_path / "injected.html"
    injected.write_text(page.read_text().replace("<main>", "<main><script>document.title = 'no'</script>"))
    dom, errors = dump(injected, tmp_path / "profile")
    assert "<title>no" not in dom
    assert len(errors) == 1
    assert "Content Security Policy" in errors[0]


def test_images_and_links_resolve_and_nothing_overflows(found: dict[str, Any]) -> None:
    assert all(resolved for _, resolved in found["links"])
    assert len(found["links"]) > 5
    assert len(found["images"]) > 50
    assert min(found["images"]) > 0
    assert found["overflow"] <= 0
    assert found["wide"] == []


def test_the_table_sorts_by_numbers_and_names(found: dict[str, Any]) -> None:
    values = [float(text.partition("%")[0]) for text in found["ascending"] if text != "-"]
    assert values == sorted(values)
    assert found["initial"] == found["ascending"]
    assert [float(text.partition("%")[0]) for text in found["descending"]] == sorted(values, reverse=True)
    flowers = [name for name in found["names"] if name.startswith("flower ")]
    assert flowers == sorted(flowers, key=lambda name: int(name.split()[1]))
    assert found["sorted"] == 1
    assert found["precisions"][-1] == "-"  # a class that was never predicted has no precision, so it comes last


def test_the_table_is_searched_without_regard_to_case(found: dict[str, Any]) -> None:
    names, count = found["search"]
    assert "<script>alert(1)</script>" in names
    assert count == f"{len(names)} of 30 classes"
    assert found["nothing"] == [[], "0 of 30 classes"]
    assert len(found["everything"][0]) == 30
    assert found["everything"][1] == ""


def test_a_cell_of_the_matrix_can_be_read_by_tapping_it(found: dict[str, Any]) -> None:
    shown, title = found["cell"]
    assert shown == title != ""
