"""`report`: the files of a finished run -> `report.html` in its folder."""

from pathlib import Path

from pipeline import config, distributed
from pipeline.arguments.verbs import ReportArguments
from pipeline.config import CommandLine
from pipeline.config.names import as_path
from pipeline.reporting import report as page
from pipeline.runs.folder import require_finished
from pipeline.runs.lock import lock

ARGUMENTS = (ReportArguments,)


def report(model: str | Path) -> Path:
    """Write the report of a finished run again, and return its path. The dataset and the model are not needed.

    Args:
        model: Run folder.

    Raises:
        PipelineError: If the run is not finished, another command is writing into its folder, or a file of the run is
            missing, damaged or that of another run.
    """
    folder = as_path(model)
    require_finished(folder)
    with lock(folder):
        return page.write(folder)


def run(line: CommandLine) -> str:
    """Run the verb, and return where the report is."""
    (args,) = config.parse(line, ARGUMENTS)
    return str(report(args.model)) if distributed.is_main_process() else ""
