"""The files of a run folder that the report is made from, checked: complete, readable, and all of the same run."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pipeline.errors import PipelineError, raise_problems
from pipeline.evaluation.audit.issues import Issue, read_issues
from pipeline.evaluation.explanations.gallery import Gallery, read_gallery
from pipeline.evaluation.predictions import Predictions, read_predictions
from pipeline.evaluation.scoring import PREFIXES
from pipeline.evaluation.thumbnails import headline_split, read_thumbnails
from pipeline.models.uncertainty import Uncertainty
from pipeline.runs.files import read_json
from pipeline.runs.folder import (
    ISSUES,
    PREDICTIONS,
    RECIPE,
    RECORD,
    RELEVANCE,
    RESULTS,
    THUMBNAILS,
    TRAINER_STATE,
    UNCERTAINTY,
    RunFolder,
    require_finished,
)
from pipeline.runs.spreadsheet import harmless

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException, yaml.YAMLError)
_RECORD_KEYS = {"command", "data", "machine", "timings", "versions"}
_RESTORE = "copy the file from the original run folder"


@dataclass(frozen=True)
class RunFiles:
    """The content of the files of a run.

    Attributes:
        folder: The run folder.
        record: `run.json`.
        recipe: `recipe.yaml`.
        results: `all_results.json`.
        state: `trainer_state.json`, None without a Trainer.
        predictions: The predictions of each split.
        class_names: Names of the classes, in the order of the logits.
        thumbnails: JPEG of each (split, id), None if the run has no such file.
        uncertainty: What the model stores of its confidence, None if the run has no such file.
        gallery: Relevance maps, None if the run has no such file.
        issues: The table of issues, None if the run has no such file.
    """

    folder: Path
    record: dict[str, Any]
    recipe: dict[str, Any]
    results: dict[str, Any]
    state: dict[str, Any] | None
    predictions: list[Predictions]
    class_names: list[str]
    thumbnails: dict[tuple[str, str], bytes] | None
    uncertainty: Uncertainty | None = None
    gallery: Gallery | None = None
    issues: list[Issue] | None = None

    @classmethod
    def read(cls, folder: Path) -> "RunFiles":
        """Read the files of a finished run.

        Raises:
            PipelineError: If the run is not finished, or a file is missing, damaged or that of another run.
        """
        with _explain(folder / RECORD):
            require_finished(folder)
        missing = [name for name in (RECIPE, RESULTS, PREDICTIONS) if not (folder / name).is_file()]
        raise_problems(f"{folder} has no {name}: {_RESTORE}" for name in missing)
        run = RunFolder(folder)
        with _explain(folder / RECIPE):
            recipe = run.arguments
        with _explain(folder / RESULTS):
            results = dict(read_json(folder / RESULTS).items())  # which fails if it is not an object
        with _explain(folder / PREDICTIONS):
            predictions, class_names = read_predictions(folder / PREDICTIONS)
        with _explain(folder / TRAINER_STATE):
            state = read_json(folder / TRAINER_STATE) if (folder / TRAINER_STATE).exists() else None
        with _explain(folder / THUMBNAILS):
            thumbnails = read_thumbnails(folder / THUMBNAILS) if (folder / THUMBNAILS).exists() else None
        with _explain(folder / RELEVANCE):
            gallery = read_gallery(folder / RELEVANCE) if (folder / RELEVANCE).exists() else None
        with _explain(folder / ISSUES):
            issues = read_issues(folder / ISSUES) if (folder / ISSUES).exists() else None
        uncertainty = None
        if (folder / UNCERTAINTY).exists():
            with _explain(folder / "config.json"):
                uncertainty = Uncertainty.read(folder, name=str(folder), classes=len(class_names))
        files = cls(
            folder,
            run.record,
            recipe,
            results,
            state,
            predictions,
            class_names,
            thumbnails,
            uncertainty,
            gallery,
            issues,
        )
        raise_problems(files._contradictions())
        return files

    @property
    def headline(self) -> Predictions:
        """The predictions whose accuracy is the result of the run."""
        return headline_split(self.predictions)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.resolve().name

    def _contradictions(self) -> Iterator[str]:
        """Yield what shows that a file is not one of this run."""
        if lacking := _RECORD_KEYS - self.record.keys():
            yield f"{self.folder / RECORD} has no {', '.join(sorted(lacking))}: {_RESTORE}"
            return
        wrong = list(self._wrong_predictions())
        yield from wrong
        known = {(each.split, harmless(image)) for each in self.predictions for image in each.ids}
        for issue in self.issues or []:
            known |= {(issue.split, issue.file), (issue.other_split, issue.other_file)}
        pictures = {THUMBNAILS: self.thumbnails or {}, RELEVANCE: self.gallery.maps if self.gallery else {}}
        for name, shown in pictures.items():
            if not wrong and not {(split, harmless(image)) for split, image in shown} <= known:
                yield f"{self.folder / name} shows images that {PREDICTIONS} does not list: {_RESTORE}"

    def _wrong_predictions(self) -> Iterator[str]:
        path, classes = self.folder / PREDICTIONS, self.record["data"]["classes"]
        if not self.predictions:
            yield f"{path} holds no image: {_RESTORE}"
        if len(self.class_names) != classes:
            yield f"{path} has {len(self.class_names)} classes, {RECORD} has {classes}: {_RESTORE}"
        for each in self.predictions:
            prefix = PREFIXES.get(each.split, each.split)
            images, accuracy = (self.results.get(f"{prefix}_{key}") for key in ("samples", "accuracy"))
            if bad := int((~np.isfinite(each.logits)).any(axis=1).sum()):
                yield f"{path} has NaN or infinite logits for {bad} {each.split} images: {_RESTORE}"
            elif images != len(each.labels) or abs(float(accuracy or 0) - each.accuracy) > 1e-6:
                yield (
                    f"{path} is not that of {self.folder / RESULTS}: {each.split} has {len(each.labels)} images with "
                    f"accuracy {each.accuracy:.4f}, not {images} with {accuracy}: {_RESTORE}"
                )


@contextlib.contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Name the file that cannot be read."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise PipelineError(f"{path} cannot be read ({reason}): {_RESTORE}") from error
