"""The run folder: its name, its files, which run it holds, and what it records."""

import contextlib
import datetime as dt
import importlib.metadata
import logging
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import PipelineError
from pipeline.runs.files import check_writable, read_json, remove_absolute_path, write_json, write_text

if TYPE_CHECKING:
    pass


RECORD = "run.json"
RECIPE = "recipe.yaml"
RESULTS = "all_results.json"
PREDICTIONS = "predictions.parquet"
TRAINER_STATE = "trainer_state.json"
CARD = "README.md"
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
"""What `pipeline("image-classification", model=...)` needs."""
PUBLISHED = (*MODEL_FILES, CARD, RESULTS, PREDICTIONS, TRAINER_STATE, RECIPE, RECORD)
"""What a push uploads: this list and nothing else; of a probe, which no Trainer trains, without its state."""
ADAPTER = "adapter"
ADAPTER_FILES = (f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors")
"""Published too, where `--keep_adapter` left them."""

# Arguments that may differ between two calls of the same run: they change what is said and kept, not what is learnt.
NEUTRAL = frozenset({
    "output_dir", "logging_strategy", "logging_steps", "logging_first_step", "log_level", "log_level_replica",
    "log_on_each_node", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "save_total_limit", "skip_memory_metrics", "per_device_eval_batch_size",
    "baseline", "image_cache_gb", "max_hours", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_in_order", "dataloader_multiprocessing_context", "push_to_hub", "hub_model_id", "hub_private_repo",
    "hub_revision",
})  # fmt: skip

_PACKAGES = ("torch", "torchvision", "transformers", "datasets", "evaluate", "accelerate", "huggingface-hub")


@dataclass(frozen=True)
class RunFolder:
    """One run folder and what it says of itself; of several processes one writes it."""

    folder: Path
    writes: bool = True

    @property
    def record(self) -> dict[str, Any]:
        """The parsed `run.json`, or nothing where there is none."""
        return read_json(self.folder / RECORD) if (self.folder / RECORD).exists() else {}

    @property
    def arguments(self) -> dict[str, Any]:
        """The resolved arguments, from `recipe.yaml`."""
        text = (self.folder / RECIPE).read_text(encoding="utf-8")
        return dict(yaml.safe_load(text))

    @property
    def finished(self) -> bool:
        """Whether the run reached its end: artefact, scores and card are written."""
        return self.record.get("status") == "finished"

    def update(self, **entries: Any) -> None:
        """Merge entries into `run.json`, atomically, where this process is the one that writes."""
        if self.writes:
            write_json(self.folder / RECORD, self.record | entries)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds that the block takes to `timings` of `run.json`, over all calls of this run."""
        start = dt.datetime.now(dt.UTC)
        try:
            yield
        finally:  # also when it was stopped: the next call goes on from there
            seconds = (dt.datetime.now(dt.UTC) - start).total_seconds()
            timings: dict[str, float] = self.record.get("timings", {})
            self.update(timings=timings | {phase: round(timings.get(phase, 0.0) + seconds, 2)})


def default_folder(*, recipe: str | None, dataset: str | None, seed: int) -> Path:
    """`outputs/<recipe or data set>-seed<seed>`, below the current folder."""
    source = Path(recipe).stem if recipe else Path(dataset or "run").resolve().name
    if recipe and Path(recipe).name == RECIPE:  # of another run: which one, its folder tells
        source = f"{Path(recipe).resolve().parent.name}-again"
    return Path("outputs") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source)}-seed{seed}"


def claim(folder: Path, *, arguments: Mapping[str, Any], fingerprint: str | None = None) -> RunFolder:
    """Say whether this run may use the folder, without writing into it.

    Args:
        folder: The run folder; it need not exist.
        arguments: The resolved arguments, as `recipe.yaml` stores them.
        fingerprint: Of the data, once they are loaded.

    Raises:
        PipelineError: If the folder holds another run or foreign files, or cannot be written.
    """
    run = RunFolder(folder)
    check_writable(folder)
    if not folder.exists() or {p.name for p in folder.iterdir() if p.name[0] != "."} <= {RECIPE}:
        return run  # new, or killed before `start` had written its second file
    if not run.record or not (folder / RECIPE).exists():
        raise PipelineError(f"{folder} is not empty and holds no run: choose another --output_dir")
    if differing := _find_differences(run.arguments, arguments):
        raise PipelineError(
            f"{folder} holds another run ({'; '.join(differing)}):\n"
            "choose another --output_dir, or remove that folder to start again"
        )
    if fingerprint and fingerprint != run.record["data"]["fingerprint"]:
        raise PipelineError(
            f"the data changed since {folder} was started: choose another --output_dir, or remove that folder"
        )
    return run


def start(run: RunFolder, *, arguments: Mapping[str, Any], data: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
    """Create the folder with `recipe.yaml` and `run.json`; in a folder that has them, change nothing.

    Args:
        run: Claimed before.
        arguments: The resolved arguments; what is None is left out, so that `--config recipe.yaml` reads them back.
        data: Name, fingerprint, and how many images each split has.
        machine: Device and precision.
    """
    if run.record:
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in arguments.items() if value is not None}
    write_text(run.folder / RECIPE, yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
    run.update(
        status="running",
        command=["vit-pipeline", *(remove_absolute_path(word) for word in sys.argv[1:])],
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        data=dict(data),
        machine=dict(machine) | {"system": platform.system()},
        versions={"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _PACKAGES},
        commit=_commit(),
    )


def published_files(folder: Path) -> list[str]:
    """The files of a finished run that a push uploads, by their names in the folder."""
    optional = (TRAINER_STATE, *ADAPTER_FILES)
    return [name for name in (*PUBLISHED, *ADAPTER_FILES) if name not in optional or (folder / name).exists()]


def public_recipe(folder: Path) -> str:
    """`recipe.yaml` as it may be shown: it names folders of this machine in full, so that it can be run again here."""
    shown = {
        key: remove_absolute_path(value) if isinstance(value, str) else value
        for key, value in RunFolder(folder).arguments.items()
    }
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _find_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[str]:
    keys = sorted((old.keys() | new.keys()) - NEUTRAL)
    return [f"{key}: {old.get(key)} there, {new.get(key)} here" for key in keys if old.get(key) != new.get(key)]


def _commit() -> str | None:
    """The commit of the checkout this code runs from, or None for an installed package."""
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return git.stdout.strip() or None


logger = logging.getLogger(__name__)


def require_finished(folder: Path) -> None:
    """Refuse a folder that is no finished run.

    Raises:
        PipelineError: If it holds no run, or one that did not reach its end.
    """
    if not RunFolder(folder).record:
        raise PipelineError(f"{folder} holds no run: give the folder that `train` wrote")
    if not RunFolder(folder).finished:
        raise PipelineError(f"the run in {folder} is not finished: repeat its `train` command first")
