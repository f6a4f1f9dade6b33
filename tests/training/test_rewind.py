"""`--on_nan rewind` continues from the last good checkpoint with half the learning rate, and resumes bit for bit."""

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
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import RECORD
from pipeline.training.callbacks.divergence import Guard
from tests.training.fitting import Fitted, checkpoints, same

RATE = 3e-3  # of `settings_of`
EVERY: dict[str, Any] = {"on_nan": "rewind", "save_total_limit": None}  # with checkpoints at the steps 6, 12 and 18
Plant = Callable[..., None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Return a function that makes the gradient norm of some steps NaN, at high learning rates only."""
    look = Guard.look

    def plant(limits: dict[int, float], before: Callable[[], object] = lambda: None) -> None:
        def diverging(self: Guard, norm: Any, *, step: int, rate: float, optimizer: Any) -> None:
            if step in limits and rate > limits[step]:
                before()
                norm = torch.tensor(float("nan"))
            look(self, norm, step=step, rate=rate, optimizer=optimizer)

        monkeypatch.setattr(Guard, "look", diverging)

    return plant


def rewinds(folder: Path) -> list[tuple[int, int, float]]:
    """Return where each rewind of a run came from and went to, and its peak learning rate."""
    return [
        (each["diverged_at"], each["resumed_from"], each["learning_rate"])
        for each in read_json(folder / RECORD)["rewinds"]
    ]


@pytest.mark.parametrize(
    "changes",
    [{}, {"strategy": "lora", "ema_decay": 0.9, "lr_scheduler_type": "linear", "layer_decay": 1.0}],
    ids=["plain", "LoRA and EMA"],
)
def test_a_rewound_run_resumes_bit_for_bit_from_each_checkpoint(
    fitted: Callable[..., Fitted],
    plant: Plant,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
) -> None:
    """It diverges in the first epoch, and twice in the third one, the last time with a quarter of the rate."""
    plant({3: 0.6 * RATE, 15: 0.033 * RATE})
    whole = fitted("whole", **EVERY, **changes)
    assert rewinds(whole.folder) == [(3, 0, RATE / 2), (15, 12, RATE / 4), (15, 12, RATE / 8)]
    assert "is nan at step 15 (training diverged" in caplog.text
    assert "rewind 2 of at most 3: continuing from step 12 with --learning_rate 0.00075" in caplog.text
    assert whole.log("learning_rate")[1] == pytest.approx(RATE / 4)  # warmup takes 2 of 18 steps
    for resumed in (0, 6, 12, 18):
        name = f"from-{resumed}"
        (tmp_path / name).mkdir()
        shutil.copy(whole.folder / RECORD, tmp_path / name)
        for step in range(6, resumed + 1, 6):
            shutil.copytree(whole.folder / f"checkpoint-{step}", tmp_path / name / f"checkpoint-{step}")
        parts = fitted(name, **EVERY, **changes)
        assert rewinds(parts.folder) == rewinds(whole.folder)
        assert same(dict(whole.model.state_dict()), dict(parts.model.state_dict()))
        for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
            assert parts.log(key) == whole.log(key), key
        for file in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
            one, other = (run.folder / "checkpoint-18" / file for run in (whole, parts))
            assert one.read_bytes() == other.read_bytes(), file


def test_a_run_that_diverges_too_often_stops_and_keeps_its_checkpoints(
    fitted: Callable[..., Fitted], plant: Plant, tmp_path: Path
) -> None:
    plant({8: 0.0})
    with pytest.raises(PipelineError, match=r"^--on_nan rewind went back 3 times, and the gradient norm is nan at s"):
        fitted(**EVERY)
    assert checkpoints(tmp_path / "run") == [6]
    assert rewinds(tmp_path / "run") == [(8, 6, RATE / 2), (8, 6, RATE / 4), (8, 6, RATE / 8)]


def test_a_run_that_stopped_can_rewind_later_and_a_signal_stops_it_in_between(
    fitted: Callable[..., Fitted], plant: Plant, tmp_path: Path
) -> None:
    plant({8: RATE / 2})
    with pytest.raises(PipelineError, match=r"; or repeat the command with --on_nan rewind$"):
        fitted(**EVERY | {"on_nan": "stop"})
    assert not (tmp_path / "run" / RECORD).exists()
    plant({8: RATE / 2}, before=lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated, match="diverged: repeat the command"):
        fitted(**EVERY)
    assert rewinds(tmp_path / "run") == [(8, 6, RATE / 2)]
    done = fitted(**EVERY | {"on_nan": "stop"})
    assert done.state["global_step"] == 18


def test_an_older_checkpoint_is_resumed_with_the_rate_of_its_time(
    fitted: Callable[..., Fitted], plant: Plant, tmp_path: Path
) -> None:
    """`run.json` of a run whose checkpoint of step 12 was lost."""
    plant({})
    whole = fitted("whole", save_total_limit=None)
    shutil.copytree(whole.folder / "checkpoint-6", tmp_path / "run" / "checkpoint-6")
    write_json(tmp_path / "run" / RECORD, {"rewinds": [{"diverged_at": 15, "resumed_from": 12, "learning_rate": 1.0}]})
    assert same(dict(fitted(**EVERY).model.state_dict()), dict(whole.model.state_dict()))
    assert rewinds(tmp_path / "run") == []


def test_max_hours_counts_the_time_that_a_rewind_discards(
    fitted: Callable[..., Fitted], plant: Plant, tmp_path: Path
) -> None:
    plant({9: RATE / 2}, before=lambda: time.sleep(1.5))
    done = fitted(**EVERY)
    assert rewinds(done.folder) == [(9, 6, RATE / 2)]
    before, after = (row["elapsed"] for row in done.state["log_history"] if "loss" in row and row["step"] in (6, 7))
    assert after > before + 1.5
    assert done.log("elapsed") == sorted(done.log("elapsed"))

    (tmp_path / "late").mkdir()  # it was killed after a rewind, before another checkpoint
    write_json(tmp_path / "late" / RECORD, {"elapsed_at_rewind": 7200.0})
    late = fitted("late", **EVERY, max_hours=1.0)
    assert late.state["global_step"] == 1
    assert min(late.log("elapsed")) > 7200
