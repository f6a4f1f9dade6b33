"""Checkpoints that are written while training continues are those that are written at once, and no error is lost.

Only a GPU uses the background. Here, a CPU does, and each write starts when training has changed the weights.
"""

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError, Terminated
from pipeline.runs import checkpoints as run_checkpoints
from pipeline.runs.background import Background
from pipeline.runs.checkpoints import find_damage
from pipeline.training import saving
from pipeline.training.checkpoints import snapshot
from tests.training.fitting import Fitted, checkpoints, same

EVERY: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}
KEEP_ALL: dict[str, Any] = {**EVERY, "save_total_limit": None, "num_train_epochs": 2}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Background.start

    def wait(self: Background, work: Callable[[], object]) -> None:
        def late() -> None:
            time.sleep(0.3)
            work()

        start(self, late)

    monkeypatch.setattr(saving, "in_background", lambda _: True)
    monkeypatch.setattr(Background, "start", wait)


def content(checkpoint: Path) -> dict[str, bytes]:
    """Return what every file holds that does not state times."""
    timed = {"trainer_state.json", "manifest.json"}
    return {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.name not in timed}


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"strategy": "lora", "lora_rank": 2}])
def test_a_checkpoint_has_the_same_files_and_a_resume_repeats_the_run(
    fitted: Callable[..., Fitted], tmp_path: Path, request: pytest.FixtureRequest, changes: dict[str, Any]
) -> None:
    at_once = fitted("at_once", **KEEP_ALL, **changes)
    request.getfixturevalue("later")
    whole = fitted("later", **KEEP_ALL, **changes)
    assert checkpoints(whole.folder) == checkpoints(at_once.folder) == [4, 8, 12]
    for name in ("checkpoint-4", "checkpoint-8"):
        assert find_damage(whole.folder / name) is None
        one, other = content(whole.folder / name), content(at_once.folder / name)
        assert one.keys() == other.keys()
        assert {key for key in one if one[key] != other[key]} <= {"optimizer.pt"}  # its pickle names shared strings
    shutil.copytree(whole.folder / "checkpoint-4", tmp_path / "parts" / "checkpoint-4")
    parts = fitted("parts", **KEEP_ALL, **changes)
    assert parts.log("loss") == at_once.log("loss")
    assert same(dict(parts.model.state_dict()), dict(at_once.model.state_dict()))


@pytest.mark.usefixtures("later")
def test_a_signal_waits_for_the_checkpoint(
    fitted: Callable[..., Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step
    taken: list[int] = []

    def stop_at_3(self: torch.optim.AdamW, *args: Any) -> Any:
        taken.append(1)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", stop_at_3)
    with pytest.raises(Terminated, match="saved step 3 in"):
        fitted(num_train_epochs=2)
    assert find_damage(tmp_path / "run" / "checkpoint-3") is None


@pytest.mark.usefixtures("later")
def test_a_full_disk_stops_the_training_and_leaves_the_checkpoint_before(
    fitted: Callable[..., Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = run_checkpoints.seal

    def fail_at_8(checkpoint: Path) -> None:
        if checkpoint.name == "checkpoint-8":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seal(checkpoint)

    monkeypatch.setattr(run_checkpoints, "seal", fail_at_8)
    with pytest.raises(PipelineError, match=r"cannot save .*checkpoint-8, .* \(No space left on device\)"):
        fitted(**{**EVERY, "num_train_epochs": 2})
    assert checkpoints(tmp_path / "run") == [4]
    assert find_damage(tmp_path / "run" / "checkpoint-4") is None


def test_a_snapshot_does_not_change_with_the_state() -> None:
    state = {"state": {0: {"step": torch.ones(()), "lr": 0.1}}, "groups": [(torch.zeros(2), "a")]}
    copy = snapshot(state)
    state["state"][0]["step"].add_(1)  # type: ignore[index]
    state["groups"][0][0].add_(1)  # type: ignore[index]
    assert copy["state"][0] == {"step": torch.ones(()), "lr": 0.1}
    assert torch.equal(copy["groups"][0][0], torch.zeros(2))
    assert copy["groups"][0][1] == "a"
