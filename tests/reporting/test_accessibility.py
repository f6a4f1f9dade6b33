"""axe-core finds no serious fault in the report and in the tour: light and dark, on a phone and on a desktop.

axe-core is not part of the project: the environment variable `VIT_PIPELINE_AXE` names its `axe.min.js`, or npm
downloads it into a temporary folder. Without either, and without Chromium, the tests are skipped.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.explanations.gallery import Gallery, ShownMap, write_gallery
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.thumbnails import read_thumbnails
from pipeline.reporting import report
from pipeline.reporting.explanation import tour
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import RELEVANCE, RESULTS, THUMBNAILS
from tests.browser import REPORT, needs_chromium, open_page
from tests.reporting.explanation.test_tour_browser import made_walk
from tests.reporting.made_runs import make_run, random_predictions
from tests.reporting.test_card import WORSE
from tests.reporting.test_report import ODD_NAMES, PROBE

pytestmark = needs_chromium

WIDTHS = (390, 1200)
THEMES = {"dark": 0, "light": 1}  # Chromium's numbers
RUN_AXE = """
(async () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  const found = violations.map(({ id, impact, nodes }) =>
    ({ id, impact, nodes: nodes.slice(0, 5).map(({ html, failureSummary }) => [html.slice(0, 300), failureSummary]) }));
  document.body.insertAdjacentHTML("beforeend", '<p style="color: #999; background: #aaa">planted</p>');
  const { violations: planted } = await axe.run(document, { runOnly: ["color-contrast"] });
  parent.postMessage({ width: innerWidth, dark, found, planted: planted.length }, "*");
})();
"""
FRAMES = f"""<!DOCTYPE html>
<script>
{REPORT}
const all = [];
addEventListener("message", (event) => {{ if (all.push(event.data) === {len(WIDTHS)}) report(all); }});
</script>
"""


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    if given := os.environ.get("VIT_PIPELINE_AXE"):
        return Path(given).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, or VIT_PIPELINE_AXE")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "pack", "axe-core@4", "--prefer-offline", "--fetch-retries=0", "--loglevel=silent"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError):
        pytest.skip("npm cannot download axe-core")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        script = packed.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def report_page(folder: Path) -> str:
    """Return a report with everything that a report can show."""
    names = [*ODD_NAMES, *(f"flower {number}" for number in range(20))]
    predictions = [random_predictions(split, 600, len(names), skill=2.0) for split in ("validation", "test")]
    make_run(folder, predictions, names, results=PROBE)
    write_json(folder / RESULTS, read_json(folder / RESULTS) | {"test_slices": [WORSE] * 25})
    write_gallery(folder / RELEVANCE, made_gallery(folder, predictions[1]))
    return report.write(folder).read_text(encoding="utf-8")


def made_gallery(folder: Path, predictions: Predictions) -> Gallery:
    """Return random maps for all thumbnails of a made run."""
    rng, shown = np.random.default_rng(0), read_thumbnails(folder / THUMBNAILS)
    verdicts = [True, False, None]
    maps = {
        key: ShownMap(jpeg, rng.random((4, 4)).astype(np.float32), verdicts[place % 3])
        for place, (key, jpeg) in enumerate(shown.items())
    }
    assert {split for split, _ in maps} == {predictions.split}
    return Gallery("LeGrad", "", maps)


@pytest.fixture(scope="module", params=["report", "tour"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, axe: str) -> Path:
    """Return a copy of a page that runs axe-core. Its security policy would reject that."""
    folder = tmp_path_factory.mktemp("page")
    made = report_page(folder / "run") if request.param == "report" else tour.render(made_walk(), name="<b>a.png")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", made)
    (folder / "page.html").write_text(
        text.replace("</body>", f"<script>{axe}</script><script>{RUN_AXE}</script></body>"), encoding="utf-8"
    )
    frames = [
        f'<iframe src="page.html" style="border: 0; height: 900px; width: {width}px"></iframe>' for width in WIDTHS
    ]
    (folder / "frames.html").write_text(FRAMES + "\n".join(frames), encoding="utf-8")
    return folder / "frames.html"


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_no_serious_fault(page: Path, theme: str, tmp_path: Path) -> None:
    results: list[dict[str, Any]]
    results, errors = open_page(page, tmp_path / "profile", f"--blink-settings=preferredColorScheme={THEMES[theme]}")
    assert errors == []
    assert sorted(each["width"] for each in results) == list(WIDTHS)
    assert all(each["dark"] == (theme == "dark") for each in results)
    assert [each["planted"] for each in results] == [1, 1]  # a fault that is planted is found
    serious = [
        (each["width"], fault["id"], fault["nodes"])
        for each in results
        for fault in each["found"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == [], json.dumps(serious, indent=1)
