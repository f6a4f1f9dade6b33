"""Which run may use a folder: a new one, the same one again, or on purpose (`--resume anyway`) a changed one."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.runs.files import absolute_if_local, remove_absolute_path
from pipeline.runs.folder import (
    TRAINER_STATE,
    RunFolder,
    check_usable,
    installed_versions,
    recorded_command,
    write_recipe,
)

_DECISIVE = ("torch", "torchvision", "transformers", "accelerate")
"""The packages whose other version trains other weights."""
_ANYWAY = "; or add --resume anyway to continue it on purpose"


class Change(NamedTuple):
    """What differs between the run in a folder and a call."""

    name: str
    before: Any
    now: Any
    where: str = "now"

    def __str__(self) -> str:
        return f"{self.name}: {self.before} in the run folder, {self.now} {self.where}"

    def as_json(self) -> dict[str, Any]:
        """Return it for `run.json`, which is published: without paths of this machine."""
        values = (remove_absolute_path(each) if isinstance(each, str) else each for each in (self.before, self.now))
        return dict(zip(("name", "before", "now"), (self.name, *values), strict=True))


@dataclass(frozen=True)
class Call:
    """What a call of `train` would train with.

    Attributes:
        arguments: The resolved settings, as `recipe.yaml` stores them.
        neutral: Names of settings that may differ from those of the run in the folder.
        defaults: What settings mean that the run in the folder does not state, because it was started by an earlier
            version.
        machine: Device, precision and number of processes.
        anyway: Whether an unfinished run is continued although it was started differently. None: that is not offered.
    """

    arguments: Mapping[str, Any]
    neutral: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    anyway: bool | None = False


def claim(folder: Path, call: Call) -> RunFolder:
    """Check that a call may use the folder. Nothing is written.

    Args:
        folder: The run folder. It does not have to exist.
        call: What it would train with.

    Returns:
        The run folder. Its record is empty if the run is new.

    Raises:
        PipelineError: If the folder holds another run or unknown files, or cannot be written.
    """
    run = check_usable(folder)
    if not run.record:
        return run
    hint = "" if call.anyway is None else _ANYWAY
    settings, surroundings = _compare_settings(run, call), _compare_surroundings(run, call)
    if run.finished and settings:
        raise PipelineError(
            f"{folder} holds another run ({_list(settings)})\n"
            f"choose another --output_dir, with --model_name_or_path {folder} to train its model further; or remove "
            "that folder to start again"
        )
    if settings and call.anyway and (folder / TRAINER_STATE).exists():
        raise PipelineError(
            f"the training in {folder} is complete, so other settings would have no effect ({_list(settings)}): repeat "
            "the command that started it, or choose another --output_dir"
        )
    if call.anyway or run.finished:
        return run
    if settings:
        raise PipelineError(
            f"{folder} holds another run ({_list(settings + surroundings)})\n"
            f"choose another --output_dir; or remove that folder to start again{hint}"
        )
    if surroundings:
        raise PipelineError(
            f"the run in {folder} was started with other versions or processes ({_list(surroundings)})\n"
            f"use the same again, or choose another --output_dir{hint}"
        )
    return run


def check_data(run: RunFolder, *, fingerprint: str, anyway: bool = False) -> None:
    """Check that a run that was started before used the same data.

    Raises:
        PipelineError: If the data changed.
    """
    if _compare_data(run, fingerprint) and not anyway:
        raise PipelineError(
            f"the data changed after the run in {run.folder} started\n"
            f"choose another --output_dir, or remove that folder to start again{_ANYWAY}"
        )


def note_changes(run: RunFolder, call: Call, *, data: Mapping[str, Any], command: Sequence[str]) -> None:
    """Record in `run.json` how a run changed that is continued anyway; its recipe is then that of this call."""
    if not run.record:
        return
    changes = [*_compare_settings(run, call), *_compare_surroundings(run, call)]
    changes += _compare_data(run, str(data["fingerprint"]))
    if not changes:
        return
    entry = {
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": recorded_command(command),
        "changes": [change.as_json() for change in changes],
    }
    run.update(
        overridden=[*run.record.get("overridden", []), entry],
        data=dict(data),
        machine=run.record["machine"] | dict(call.machine),
        versions=installed_versions(),
    )
    write_recipe(run.folder, call.arguments)


def _list(changes: Sequence[Change]) -> str:
    return "; ".join(map(str, changes))


def _compare_settings(run: RunFolder, call: Call) -> list[Change]:
    old, new = _filled(run.arguments, call.defaults), _filled(call.arguments, call.defaults)
    return [
        Change(key, old.get(key), new.get(key), "on the command line")
        for key in sorted((old.keys() | new.keys()) - call.neutral)
        if old.get(key) != new.get(key) and _located(old.get(key)) != new.get(key)
    ]


def _compare_surroundings(run: RunFolder, call: Call) -> list[Change]:
    """Compare versions and, unless the batch size does not depend on it, the number of processes."""
    versions, machine = run.record["versions"], run.record["machine"]
    installed = installed_versions()
    found = [Change(name, versions.get(name), installed[name]) for name in _DECISIVE]
    if call.arguments.get("global_batch_size") is None:
        found.append(Change("processes", machine.get("processes", 1), call.machine.get("processes", 1)))
    return [change for change in found if change.before != change.now]


def _compare_data(run: RunFolder, fingerprint: str) -> list[Change]:
    before = run.record["data"]["fingerprint"] if run.record else fingerprint
    return [] if before == fingerprint else [Change("data", before, fingerprint)]


def _filled(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    stated = {key: value for key, value in arguments.items() if value is not None}
    return {key: getattr(value, "value", value) for key, value in ({**defaults, **stated}).items()}


def _located(value: Any) -> Any:
    """Return a setting of an earlier version, which recorded paths as they were typed, as it is recorded now."""
    return absolute_if_local(value) if isinstance(value, str) else value
