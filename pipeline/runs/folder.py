"""The run folder: its name, its files, the run that it holds, and the record of that run."""

import contextlib
import datetime as dt
import importlib.metadata
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.names import RACE, is_race
from pipeline.errors import PipelineError
from pipeline.runs.files import (
    check_writable,
    describe_file,
    explain_unreadable,
    find_damaged_file,
    read_json,
    remove_absolute_path,
    write_json,
    write_text,
)

RECORD = "run.json"
RECIPE = "recipe.yaml"
RESULTS = "all_results.json"
PREDICTIONS = "predictions.parquet"
TRAINER_STATE = "trainer_state.json"
CARD = "README.md"
REPORT = "report.html"
THUMBNAILS = "thumbnails.parquet"
RELEVANCE = "relevance.parquet"
UNCERTAINTY = "uncertainty.safetensors"
ISSUES = "issues.csv"
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
"""The files that `pipeline("image-classification", model=...)` needs."""
POOLED_MODEL_TYPE = "pooled_image_classifier"
"""The `model_type` in config.json of a backbone with a pooled head, which transformers alone does not load."""
PUBLISHED = (
    *MODEL_FILES, UNCERTAINTY, CARD, REPORT, RESULTS, PREDICTIONS, THUMBNAILS, RELEVANCE, ISSUES, TRAINER_STATE,
    RECIPE, RECORD,
)  # fmt: skip
"""The files that a push uploads."""
OPTIONAL = (UNCERTAINTY, REPORT, THUMBNAILS, RELEVANCE, ISSUES, TRAINER_STATE)
"""The published files that a run may lack: flags skip the first five, and a linear probe has no Trainer."""
PLOTS = (
    "confusion-matrix", "learning-curve", "loss", "prediction-sets", "reliability", "risk-and-coverage",
    "unknown-images", "validation-accuracy",
)  # fmt: skip
"""Names of the plots in `figures/`, each as SVG and PNG. They are published if matplotlib was there to draw them."""
FIGURES = tuple(f"figures/{name}.{kind}" for name in PLOTS for kind in ("png", "svg"))
ADAPTER = "adapter"
ADAPTER_FILES = (f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors")
"""Pushed as well, if `--keep_adapter` wrote them."""

_RESTORE = "restore it from a backup, or remove the folder to start again"
_PACKAGES = ("torch", "torchvision", "transformers", "datasets", "evaluate", "accelerate", "huggingface-hub")


@dataclass(frozen=True)
class RunFolder:
    """One run folder and its record.

    Attributes:
        folder: Its path.
        writes: Whether this process writes the record. Only one process does.
    """

    folder: Path
    writes: bool = True

    @property
    def record(self) -> dict[str, Any]:
        """The content of `run.json`, or an empty dict if there is no such file."""
        path = self.folder / RECORD
        with explain_unreadable(path, remedy=_RESTORE):
            return dict(read_json(path)) if path.exists() else {}

    @property
    def arguments(self) -> dict[str, Any]:
        """The resolved settings, from `recipe.yaml`."""
        path = self.folder / RECIPE
        with explain_unreadable(path, remedy=_RESTORE):
            return dict(yaml.safe_load(path.read_text(encoding="utf-8")))

    @property
    def finished(self) -> bool:
        """Whether the run is complete: model, metrics and card are written."""
        return self.record.get("status") == "finished"

    def find_damage(self) -> str | None:
        """Return which file of a finished run is missing or differs from the one that was written, or None."""
        needed = (name for name in PUBLISHED if name not in OPTIONAL)
        missing = (f"{name} is missing" for name in needed if not (self.folder / name).is_file())
        return next(missing, None) or find_damaged_file(self.folder, self.record.get("files", {}))

    def finish(self) -> None:
        """Record that the run is complete, with the size and hash of every file that does not change any more."""
        names = (*MODEL_FILES, UNCERTAINTY, RESULTS, PREDICTIONS, TRAINER_STATE, *ADAPTER_FILES)
        found = (name for name in names if (self.folder / name).is_file())
        self.update(status="finished", files={name: describe_file(self.folder / name) for name in found})

    def update(self, **entries: Any) -> None:
        """Merge entries into `run.json` atomically, if this process writes the record."""
        if self.writes:
            write_json(self.folder / RECORD, self.record | entries)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the duration of the block in seconds to `timings` of `run.json`, summed over all calls of this run."""
        start = time.perf_counter()
        try:
            yield
        finally:  # An interrupted phase counts too, because the next call resumes it.
            self.add_timings({phase: time.perf_counter() - start})

    def add_timings(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by phase to `timings` of `run.json`."""
        timings: dict[str, float] = self.record.get("timings", {})
        added = {phase: round(timings.get(phase, 0.0) + value, 2) for phase, value in seconds.items()}
        self.update(timings=timings | added)


def default_folder(*, recipe: str | None, dataset: str | None, seed: int) -> Path:
    """Return `outputs/<recipe or dataset>-seed<seed>`, relative to the current folder."""
    source = Path(recipe).stem if recipe else Path(dataset or "run").resolve().name
    if recipe and Path(recipe).name == RECIPE:  # The recipe of another run is named after the folder of that run.
        source = f"{Path(recipe).resolve().parent.name}-again"
    return Path("outputs") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source)}-seed{seed}"


def check_usable(folder: Path) -> RunFolder:
    """Check that the folder is new or a run folder, and can be written. Nothing is written.

    Raises:
        PipelineError: If the folder holds unknown files, or cannot be written.
    """
    run = RunFolder(folder)
    check_writable(folder)
    if not _is_new(folder) and (not run.record or not (folder / RECIPE).exists()):
        raise PipelineError(f"{folder} is not empty and is not a run folder: choose another --output_dir")
    return run


def _is_new(folder: Path) -> bool:
    """Return whether no run was started in the folder, or one was killed before `start` wrote its second file."""
    return not folder.exists() or {p.name for p in folder.iterdir() if p.name[0] != "."} <= {RECIPE}


def start(
    run: RunFolder,
    *,
    command: Sequence[str],
    arguments: Mapping[str, Any],
    data: Mapping[str, Any],
    machine: Mapping[str, Any],
    auto: Sequence[str] | None = None,
    trials: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Create the folder with `recipe.yaml` and `run.json`. Do nothing if the run was started before.

    Args:
        run: The result of `claim.claim`.
        command: The verb and the flags of the call, as words.
        arguments: The resolved settings. Values of None are not written, so that `--config recipe.yaml` can read them.
        data: Name and fingerprint of the dataset, and the number of images in each split.
        machine: Device and precision.
        auto: What `--auto` chose, as words; None without it.
        trials: Its trials, with `candidate`, `flags`, `epochs`, `accuracy`, `seconds` and `chosen`.
    """
    if run.record:
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    write_recipe(run.folder, arguments)
    run.update(
        status="running",
        command=recorded_command(command),
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        data=dict(data),
        machine=dict(machine) | {"system": platform.system()},
        **({} if auto is None else {"auto": list(auto), "trials": list(trials)}),
        versions=installed_versions(),
        commit=_commit(),
    )


def write_recipe(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Write `recipe.yaml`. Settings that are None are not written."""
    recipe = {key: value for key, value in arguments.items() if value is not None}
    write_text(folder / RECIPE, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))


def recorded_command(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without absolute paths."""
    return ["vit-pipeline", *map(remove_absolute_path, words)]


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _commit() -> str | None:
    """Return the git commit of this code, or None if it is not in a git repository."""
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return git.stdout.strip() or None


def require_finished(folder: Path) -> None:
    """Check that the folder holds a finished run.

    Raises:
        PipelineError: If it is not a run folder, or the run is not finished.
    """
    if not RunFolder(folder).record:
        raise PipelineError(f"{folder} is not a run folder: pass a folder that `train` wrote")
    if RunFolder(folder).record.get("status") == RACE:
        raise PipelineError(is_race(str(folder)))
    if not RunFolder(folder).finished:
        raise PipelineError(f"the run in {folder} is not finished: repeat its `train` command")


def require_intact(folder: Path) -> None:
    """Check that the folder holds a finished run whose files are as they were written.

    Raises:
        PipelineError: If it does not.
    """
    require_finished(folder)
    if (damage := RunFolder(folder).find_damage()) is not None:
        raise PipelineError(f"{folder}: {damage}: repeat its `train` command, which writes it again")
