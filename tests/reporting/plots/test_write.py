"""Plots are complete, deterministic, and show every class name literally."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipeline.reporting.plots.write import write_plots
from pipeline.reporting.run_files import RunFiles
from pipeline.runs.folder import FIGURES
from pipeline.runs.publish import published_files
from tests.reporting.made_runs import make_run, random_predictions
from tests.reporting.test_report import ODD_NAMES, PROBE

pytest.importorskip("matplotlib", reason="needs matplotlib")
NAMES = ["$x^2$", *ODD_NAMES]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    predictions = [random_predictions(split, 120, len(NAMES), skill=2.0) for split in ("validation", "test")]
    folder = make_run(tmp_path_factory.mktemp("runs") / "odd", predictions, NAMES, results=PROBE)
    write_plots(RunFiles.read(folder))
    return folder


def test_the_plots_of_a_run_are_published_as_svg_and_png(run: Path) -> None:
    drawn = {path.relative_to(run).as_posix() for path in (run / "figures").iterdir()}
    stored = ("prediction-sets", "unknown-images")  # the made run stores no uncertainty
    assert drawn == {name for name in FIGURES if not name.partition("/")[2].startswith(stored)}
    assert drawn < set(published_files(run))
    for name in drawn:
        if name.endswith(".svg"):
            text = (run / name).read_text(encoding="utf-8")
            assert ET.fromstring(text).tag.endswith("svg")
            assert "<dc:date>" not in text
        else:
            with PIL.Image.open(run / name) as plot:
                pixels = np.asarray(plot.convert("RGB")).reshape(-1, 3)
            assert (pixels[0] == 255).all()
            assert len(np.unique(pixels, axis=0)) > 10


def test_the_files_are_the_same_in_another_process(run: Path) -> None:
    before = {path: path.read_bytes() for path in (run / "figures").iterdir()}
    code = (
        "from pathlib import Path; from pipeline.reporting.plots.write import write_plots; "
        f"from pipeline.reporting.run_files import RunFiles; write_plots(RunFiles.read(Path({str(run)!r})))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert {path: path.read_bytes() for path in (run / "figures").iterdir()} == before


def test_plots_that_the_run_no_longer_has_are_removed_and_foreign_files_are_kept(run: Path) -> None:
    (run / "figures" / "unknown-images.png").write_bytes(b"old")
    (run / "figures" / "notes.txt").write_text("mine")
    write_plots(RunFiles.read(run))
    assert not (run / "figures" / "unknown-images.png").exists()
    assert (run / "figures" / "notes.txt").exists()
    assert "figures/notes.txt" not in published_files(run)


def test_the_matrix_of_many_classes_names_each_of_them(tmp_path: Path) -> None:
    names = [f"flower {number}" for number in range(102)]
    folder = make_run(tmp_path / "run", [random_predictions("test", 600, 102)], names)
    write_plots(RunFiles.read(folder))
    comments = (folder / "figures" / "confusion-matrix.svg").read_text(encoding="utf-8")
    assert all(comments.count(f"<!-- {name} -->") == 2 for name in names)
