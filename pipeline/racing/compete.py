"""Backbones -> linear probes of all, fine-tuning of the best, and the table."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import distributed
from pipeline.arguments.settings import DEFAULTS, NEUTRAL, Settings
from pipeline.config.backbones import display_name, folder_name
from pipeline.config.names import RACE
from pipeline.data import report, sources
from pipeline.data.report import LoadedSplits
from pipeline.distributed import LostRankError
from pipeline.errors import BadImageError, PipelineError
from pipeline.performance.batch_size import is_out_of_memory
from pipeline.racing import results
from pipeline.racing.entry import PROBE, Entry
from pipeline.racing.frozen import run_frozen, score_probe
from pipeline.racing.standings import best_of, standings
from pipeline.racing.tuned import read_tuned, vote
from pipeline.runs import folder as run_folder
from pipeline.runs.claim import Call, claim
from pipeline.runs.folder import RunFolder
from pipeline.runs.lock import lock
from pipeline.selection.settings import as_recipe

logger = logging.getLogger(__name__)

FineTune = Callable[[str, Path], Path]
"""Fine-tunes a backbone in a run folder, or resumes, and returns the folder."""


def compete(
    backbones: Sequence[str],
    finalists: int,
    settings: Settings,
    *,
    words: Sequence[str],
    request: str | None,
    fine_tune: FineTune,
) -> dict[str, Any]:
    """Return the content of `race.json`, after the missing entries are measured. A backbone that fails is a row.

    Args:
        backbones: Names of models.
        finalists: Number of backbones that are fine-tuned.
        settings: Settings of the race; the model in them is not used. `output_dir` is the folder of the race.
        words: The call.
        request: From `recorded.describe_request`.
        fine_tune: Fine-tunes a backbone.

    Raises:
        PipelineError: If the folder holds another race, or the data cannot be used.
    """
    if distributed.world_size() > 1:
        raise PipelineError("race runs in one process: start it without `accelerate launch`")
    folder = Path(str(settings.trainer.output_dir))
    race = _claim(folder, settings)
    with lock(folder):
        splits = sources.load_splits(settings.data)
        data = report.describe(splits, settings.data.dataset_name, revision=settings.data.dataset_revision)
        _require_same_data(race, data)
        machine = settings.trainer.machine()
        run_folder.start(race, command=words, arguments=_arguments(settings), data=data, machine=machine)
        race.update(status=RACE, backbones=list(backbones), finalists=finalists)
        entries = _probe_all(backbones, splits, settings, folder)
        entries += _tune_finalists(_finalists(backbones, entries, finalists), settings, folder, fine_tune)
        entries = _score_chosen(entries, backbones, splits, settings, folder)
        found = {"request": request, "data": data, "machine": race.record["machine"]}
        found |= standings(entries, folder=folder)
        results.write(folder, found)
    return found


def _claim(folder: Path, settings: Settings) -> RunFolder:
    """Return the folder, after a check that it is new or holds a race with these settings."""
    race = run_folder.check_usable(folder)
    if race.record and race.record.get("status") not in (RACE, "running"):
        raise PipelineError(f"{folder} holds a run, not a race: choose another --output_dir")
    call = Call(_arguments(settings), neutral=NEUTRAL, defaults=DEFAULTS, anyway=None)
    return claim(folder, call)


def _arguments(settings: Settings) -> dict[str, Any]:
    """Return the settings that all entries share."""
    arguments = as_recipe(settings) | {"auto": settings.selection.auto}
    return {name: value for name, value in arguments.items() if name not in ("model_name_or_path", "model_revision")}


def _require_same_data(race: RunFolder, data: Mapping[str, Any]) -> None:
    before = race.record.get("data", data)
    if before["fingerprint"] == data["fingerprint"]:
        return
    changed = [
        f"{key}: {before[key]} then, {data[key]} now" for key in ("classes", "samples") if before[key] != data[key]
    ]
    what = "; ".join(changed) or "files or labels differ, their numbers do not"
    raise PipelineError(
        f"the data changed after the race in {race.folder} started ({what}): choose another --output_dir, or remove "
        "that folder to start again"
    )


def _probe_all(backbones: Sequence[str], splits: LoadedSplits, settings: Settings, folder: Path) -> list[Entry]:
    entries = list[Entry]()
    for backbone in backbones:
        place = folder / folder_name(backbone)
        entries += _attempt(backbone, PROBE, functools.partial(run_frozen, backbone, splits, settings, folder=place))
    return entries


def _finalists(backbones: Sequence[str], entries: Sequence[Entry], number: int) -> list[tuple[str, Entry]]:
    """Return the backbones with the most accurate linear probes, and the entries of these."""
    probes = [(b, e) for b in backbones for e in entries if e.backbone == display_name(b) and e.can_be_chosen]
    return sorted(probes, key=lambda each: -each[1].accuracy)[:number]


def _tune_finalists(
    finalists: Sequence[tuple[str, Entry]], settings: Settings, folder: Path, fine_tune: FineTune
) -> list[Entry]:
    strategy = "auto" if settings.selection.auto else settings.strategy.strategy
    entries = list[Entry]()
    for backbone, probe in finalists:
        run = folder / folder_name(backbone) / strategy
        entries += _attempt(backbone, strategy, functools.partial(_tune, backbone, probe, run, strategy, fine_tune))
    tuned = [each for each in entries if each.can_be_chosen]
    return [*entries, vote(tuned)] if len(tuned) > 1 else entries


def _tune(backbone: str, probe: Entry, run: Path, strategy: str, fine_tune: FineTune) -> list[Entry]:
    return [read_tuned(probe, fine_tune(backbone, run), strategy)]


def _attempt(backbone: str, strategy: str, work: Callable[[], list[Entry]]) -> list[Entry]:
    """Return the entries that a function returns, or one that says why it failed.

    Raises:
        BadImageError: If an image cannot be read, which would stop every backbone.
    """
    try:
        return work()
    except (BadImageError, LostRankError):
        raise
    except PipelineError as error:
        reason = " ".join(str(error).split())
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = "it does not fit in memory: lower --per_device_train_batch_size and --per_device_eval_batch_size"
    logger.warning("%s (%s) failed: %s", backbone, strategy, reason)
    return [Entry(display_name(backbone), strategy, error=reason)]


def _score_chosen(
    entries: Sequence[Entry], backbones: Sequence[str], splits: LoadedSplits, settings: Settings, folder: Path
) -> list[Entry]:
    """Save the chosen model and score it on test, if it is a linear probe; `train` has done that with all others."""
    best = best_of(entries)
    if best is None or best.strategy != PROBE:
        return list(entries)
    backbone = next(each for each in backbones if display_name(each) == best.backbone)
    scored = score_probe(best, backbone, splits, settings, folder=folder / folder_name(backbone))
    return [scored if each is best else each for each in entries]
