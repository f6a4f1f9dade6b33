"""`predict --watch`: the images that arrive in a folder -> rows at the end of a CSV file, each image once."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import distributed, watchdog
from pipeline.arguments.verbs import PredictArguments
from pipeline.config.names import as_path
from pipeline.data.labels.class_names import rename_model
from pipeline.errors import PipelineError, Terminated, visible
from pipeline.images.decode import IMAGE_EXTENSIONS
from pipeline.images.files import list_files
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.models.prediction import Source, rounded_rows
from pipeline.runs.appended_table import AppendedTable
from pipeline.signals import Stopped

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""An image is read if its size and time are those of the look before."""
PATIENCE_SECONDS = 5.0
"""An image that cannot be read is named after it has not changed for this long, because it may still be written."""
_ERRORS = ("image", "reason")


@watchdog.must_progress()
def watch(args: PredictArguments) -> None:
    """Label the images of a folder and all that arrive in it, until a signal arrives.

    The table names images by their paths in the folder. An image that it names is not labeled again, so the next call
    continues where this one stopped.

    Raises:
        PipelineError: If the folder, the model or a file cannot be used.
        Terminated: If a signal arrived.
    """
    folder, output = as_path(str(args.watch)), as_path(str(args.output))
    if distributed.world_size() > 1:
        raise PipelineError("--watch runs in one process: start it without `accelerate launch`")
    tables = contextlib.ExitStack()
    try:
        classifier = ImageClassifier.load(str(args.model), revision=args.model_revision)
        if args.class_names is not None:
            classifier.rename_classes(rename_model(args.class_names, classifier.class_names))
        per_image = min(args.top_k, len(classifier.class_names))
        table = AppendedTable(output, [*classifier.columns], rows_per_item=per_image, flag="--output")
        tables.callback(table.close)
        errors = None
        if args.errors is not None:
            errors = AppendedTable(as_path(args.errors), _ERRORS, rows_per_item=1, flag="--errors")
            tables.callback(errors.close)
        logger.info("watching %s; %d images are in %s; stop it with Ctrl-C", folder, len(table.done), output)
        arrivals = Arrivals(folder, table)
        while True:
            named = arrivals.poll(time.monotonic())
            if named:
                for batch in classifier.rank_batches(named, LoaderOptions(batch_size=32), top_k=args.top_k, fail=False):
                    table.append(rounded_rows(batch, classifier.class_names))
                    arrivals.report(dict(zip(batch.names, batch.problems, strict=True)))
                logger.info("%d images are in %s", len(table.done), output)
            _name(arrivals.broken(time.monotonic()), errors)
            time.sleep(POLL_SECONDS)
    except Stopped as stop:
        raise Terminated(f"repeat the command to continue {output}", stop.number) from stop
    finally:
        tables.close()


def _name(broken: dict[str, str], errors: AppendedTable | None) -> None:
    """Report the images that cannot be read, unless an earlier call did."""
    new = {name: reason for name, reason in broken.items() if errors is None or name not in errors}
    for name, reason in new.items():
        logger.warning("cannot read %s: %s", visible(name), reason)
    if errors is not None:
        errors.append(list(new.items()))


@dataclass
class _Seen:
    """An image that the table does not name.

    Attributes:
        state: Size, and time of the last change.
        since: When it was first seen with this state.
        problem: Why it could not be read; None if it was not tried.
        is_named: Whether the problem was reported.
    """

    state: tuple[int, int]
    since: float
    problem: str | None = None
    is_named: bool = False


class Arrivals:
    """The images of a folder that are complete, and those that cannot be read."""

    def __init__(self, folder: Path, table: AppendedTable) -> None:
        self.folder, self.table = folder, table
        self._seen: dict[str, _Seen] = {}

    def poll(self, now: float) -> list[tuple[str | int, Source]]:
        """Return name and path of each image that has not changed since the last call and was not tried since."""
        ready: list[tuple[str | int, Source]] = []
        found = set()
        for path in self._images():
            name = path.relative_to(self.folder).as_posix()
            if name in self.table:
                continue
            try:
                status = path.stat()
            except OSError:  # it was removed, or it is a broken link
                continue
            found.add(name)
            state = (status.st_size, status.st_mtime_ns)
            seen = self._seen.get(name)
            if seen is None or seen.state != state:
                self._seen[name] = _Seen(state, now)
            elif seen.problem is None:
                ready.append((name, path))
        self._seen = {name: seen for name, seen in self._seen.items() if name in found}
        return ready

    def report(self, problems: dict[str | int, str | None]) -> None:
        """Take the problem of each image that was tried, or None."""
        for name, problem in problems.items():
            self._seen[str(name)].problem = problem

    def broken(self, now: float) -> dict[str, str]:
        """Return name and problem of the images that could not be read and have not changed for a while, each once."""
        named = {}
        for name, seen in self._seen.items():
            if seen.problem is not None and not seen.is_named and now - seen.since >= PATIENCE_SECONDS:
                seen.is_named = True
                named[name] = seen.problem.removeprefix(f"{name}: ")
        return named

    def _images(self) -> Iterator[Path]:
        try:
            paths = list(list_files(self.folder))
        except OSError:  # a folder was removed, or a network drive is not there for a moment
            return
        for path in paths:
            if path.suffix.lower() in IMAGE_EXTENSIONS and _is_text(path):
                yield path


def _is_text(path: Path) -> bool:
    """Return whether a table can hold the name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
