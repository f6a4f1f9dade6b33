"""`tour.html` in a browser: every image and link resolves, and nothing is wider than the window."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.explanations.walk import Head, Walk
from pipeline.reporting.explanation import tour
from tests.browser import REPORT, needs_chromium, open_page
from tests.reporting.pages import Page
from tests.reporting.test_report import ODD_NAMES

pytestmark = needs_chromium

# The page allows no script, so the frame around it reads it.
FRAME = f"""<!DOCTYPE html>
<iframe src="tour.html" style="border: 0; height: 900px; width: WIDTHpx"></iframe>
<script>{REPORT} addEventListener("load", async () => {{
  const page = document.querySelector("iframe").contentDocument;
  const width = page.documentElement.clientWidth;
  report({{
    images: [...page.images].map((image) => image.naturalWidth),
    links: [...page.querySelectorAll("a[href]")].map((link) => !!page.getElementById(link.hash.slice(1))),
    wide: [...page.querySelectorAll("section *")].filter(
      (each) => each.getBoundingClientRect().right > width + 1).map((each) => each.outerHTML.slice(0, 200)),
    width,
  }});
}});</script>
"""


def made_walk(layers: int = 12, heads: int = 12) -> Walk:
    rng = np.random.default_rng(0)

    def maps(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.random(shape).astype(np.float32)

    probabilities = rng.dirichlet(np.ones(len(ODD_NAMES)), layers).astype(np.float32)
    return Walk(
        rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), (4, 4), 1, maps(4, 4, 32), maps(4, 4, 4, 4),
        Head(layers, 1, 16, maps(4, 4), maps(4, 4), maps(4, 4)), heads, maps(layers, 4, 4), probabilities, maps(4, 4),
        list(ODD_NAMES),
    )  # fmt: skip


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_works_on_a_phone_and_on_a_desktop(width: int, tmp_path: Path) -> None:
    (tmp_path / tour.PAGE).write_text(tour.render(made_walk(), name="<b>a\x1b.png"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    found, errors = open_page(tmp_path / "frame.html", tmp_path / "profile")
    assert errors == []
    assert len(found["images"]) > 30
    assert all(found["images"])
    assert all(found["links"])
    assert found["wide"] == []


def test_a_network_without_class_token_and_with_one_layer_and_one_class() -> None:
    walk = made_walk(layers=1, heads=1)
    changes = {"num_prefix_tokens": 0, "positions": None, "class_names": ["only"]}
    changed = Walk(**{**vars(walk), **changes, "probabilities": np.ones((1, 1), np.float32)})
    page = Page(tour.render(changed, name="a.png"))
    assert "the center patch" in page.text_of("step-5")
    assert "bias" in page.text_of("step-4")
    assert "leads by 100.0%" in page.text_of("step-8")
