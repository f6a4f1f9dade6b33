"""`report.html`: one page that shows a run, made from the files of its folder and nothing else.

The page needs no network: styles, script, charts and thumbnails are inside. Its content security policy allows exactly
the script of `assets/report.js`, so a class name that looks like a script is shown and never run.
"""

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

from pipeline.config.names import ASSETS
from pipeline.evaluation.examples import Scored
from pipeline.reporting import facts, summary
from pipeline.reporting.charts import curves
from pipeline.reporting.charts.confidence import confidence_figures
from pipeline.reporting.charts.confusion import confusion_chart
from pipeline.reporting.issues import issue_section
from pipeline.reporting.markup import render_template
from pipeline.reporting.mistakes import MAX_ROWS, Mistakes
from pipeline.reporting.plots.write import write_plots
from pipeline.reporting.run_files import RunFiles
from pipeline.runs.files import write_text
from pipeline.runs.folder import REPORT

TEMPLATE = "report.html"


def write(folder: Path) -> Path:
    """Write the report of a finished run to `report.html` and its plots to `figures/`, and return the path of the page.

    Args:
        folder: Run folder.

    Raises:
        PipelineError: If the run is not finished, a file is missing, damaged or that of another run, or the report
            cannot be written.
    """
    files = RunFiles.read(folder)
    write_text(folder / REPORT, render(files))
    write_plots(files)
    return folder / REPORT


def render(files: RunFiles) -> str:
    """Return the page."""
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    scored = Scored.of(files.headline)
    mistakes = Mistakes(files, scored)
    matrix, shown = confusion_chart(scored.matrix, files.class_names)
    slices = summary.slices_of(files.results, files.headline.split)
    confident, uncertain = mistakes.galleries()
    return render_template(
        TEMPLATE,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=files.name,
        origin=facts.origin(files),
        headline=facts.headline(files),
        comparisons=facts.comparisons(files),
        is_probe=facts.is_probe(files),
        has_thumbnails=files.thumbnails is not None,
        training=list(curves.training_figures(files)),
        learning_curve=curves.learning_curve_figure(files),
        classes=mistakes.class_cells(),
        max_rows=MAX_ROWS,
        num_classes=len(files.class_names),
        never_predicted=mistakes.never_predicted(),
        matrix=matrix,
        matrix_classes=shown,
        pairs=mistakes.pair_cards(),
        slices=sorted(slices, key=lambda each: not each["is_worse"]),
        worse=summary.slice_sentences(slices),
        relevance=files.gallery,
        confident=confident,
        uncertain=uncertain,
        issues=issue_section(files),
        confidence=list(confidence_figures(files, scored)),
        training_facts=list(facts.training_facts(files)),
        data_facts=list(facts.data_facts(files)),
        notes=facts.data_notes(files),
        speed=list(facts.speed_facts(files)),
        phases=facts.phases(files),
        choices=facts.choices(files),
        trials=facts.trials(files),
        reproduction=facts.reproduction(files),
    )
