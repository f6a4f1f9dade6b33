"""`figures/`: the charts of the report as SVG and PNG, for papers, slides, the model card and the trackers."""

import importlib.util
import logging
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pipeline.evaluation.examples import Scored
from pipeline.reporting.charts import curves
from pipeline.reporting.charts.confidence import confidence_figures
from pipeline.reporting.run_files import RunFiles
from pipeline.runs.files import atomic_write
from pipeline.runs.folder import FIGURES, PLOTS

logger = logging.getLogger(__name__)


def write_plots(files: RunFiles) -> list[Path]:
    """Write the plots of a run, and remove those of an earlier report that it lacks.

    The files are the same each time: they hold no date, and the ids in the SVG do not change.

    Args:
        files: The files of the run.

    Returns:
        The files; none without matplotlib, which a log line says.

    Raises:
        PipelineError: If a file cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("figures/ is not written, because matplotlib is not installed: run `pip install matplotlib`")
        return []
    written = list(_write(files))
    for name in FIGURES:
        if files.folder / name not in written:
            (files.folder / name).unlink(missing_ok=True)
    return written


def _write(files: RunFiles) -> Iterator[Path]:
    from pipeline.reporting.plots import draw  # matplotlib is optional, and slow to import

    scored = Scored.of(files.headline)
    figures = chain(
        confidence_figures(files, scored),
        curves.training_figures(files),
        filter(None, [curves.learning_curve_figure(files)]),
    )
    drawn = {_name(each.title): draw.draw_chart(each.chart) for each in figures}
    drawn["confusion-matrix"] = draw.draw_confusion(scored.matrix, files.class_names)
    for name, figure in drawn.items():
        assert name in PLOTS, name
        for kind in ("svg", "png"):
            path = files.folder / "figures" / f"{name}.{kind}"
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as temporary:
                draw.save(figure, temporary, kind)
            yield path


def _name(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())
