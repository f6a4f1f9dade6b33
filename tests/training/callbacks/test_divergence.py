"""A NaN or an infinity stops the training before it reaches the weights, and never reaches a checkpoint."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.training.callbacks.divergence import Guard
from pipeline.training.objective import Objective
from tests.training.fitting import Fitted, checkpoints, same


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_touched(
    fitted: Callable[..., Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, accumulation: int
) -> None:
    """Nor is it saved by a signal that arrives in the same step."""
    compute = Objective.__call__
    asked = 0
    steps: list[int] = []

    def fail_in_step_9(self: Objective, outputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal asked
        asked += bool(outputs.logits.requires_grad)
        loss = compute(self, outputs, *args, **kwargs)
        if asked != 8 * accumulation + 1 or not outputs.logits.requires_grad:
            return loss
        os.kill(os.getpid(), signal.SIGTERM)
        return loss * value

    monkeypatch.setattr(Objective, "__call__", fail_in_step_9)
    every: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}
    every |= {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 6 // accumulation}
    step = torch.optim.AdamW.step

    def look(self: torch.optim.AdamW, *args: Any) -> Any:
        steps.append(asked)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    message = (
        r"^the gradient norm is nan at step 9 \(training diverged at learning rate 0\.00\d+; the checkpoints before"
    )
    with pytest.raises(PipelineError, match=message):
        fitted(num_train_epochs=3, **every)
    assert len(steps) == 8
    assert checkpoints(tmp_path / "run") == [4, 8]
    monkeypatch.undo()
    resumed, whole = fitted(num_train_epochs=3, **every), fitted("whole", num_train_epochs=3, **every)
    assert same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))


def fused(**options: Any) -> tuple[nn.Linear, torch.optim.AdamW]:
    model = nn.Linear(2, 2)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True, **options)


def test_on_an_accelerator_nothing_is_read_in_a_step() -> None:
    """A meta tensor stands for a tensor of an accelerator: looking at its value would fail."""
    guard, (_, optimizer) = Guard(peak_rate=1e-3), fused()
    guard.look(torch.empty((), device="meta"), step=1, rate=1e-4, optimizer=optimizer)
    with pytest.raises(RuntimeError, match="meta"):  # this optimizer cannot skip a step on its own
        guard.look(torch.empty((), device="meta"), step=1, rate=1e-4, optimizer=torch.optim.SGD([torch.ones(1)]))


def test_a_cpu_stops_at_once_and_the_first_bad_step_is_named() -> None:
    guard, (_, optimizer) = Guard(peak_rate=1e-3), fused()
    for step, norm in enumerate([1.0, 2.0], start=1):
        guard.look(torch.tensor(norm), step=step, rate=1e-4, optimizer=optimizer)
    guard.require_finite(rate=1e-4)
    with pytest.raises(PipelineError, match=r"is nan at step 3 \(training diverged at learning rate 0\.0001;"):
        guard.look(torch.tensor(float("nan")), step=3, rate=1e-4, optimizer=optimizer)


def test_a_fused_optimizer_holds_the_weights_from_the_first_bad_step_on() -> None:
    """What happens on an accelerator: each step is noted, and the optimizer reads the note on the device."""
    guard, (model, optimizer), (other, reference) = Guard(peak_rate=1e-3), fused(), fused()
    other.load_state_dict(model.state_dict())
    for step, loss_factor in enumerate([1.0, 1.0, float("nan"), 1.0, float("inf")], start=1):
        for network, chosen in ((model, optimizer), (other, reference)):
            network.zero_grad()
            (network(torch.ones(1, 2)).sum() * loss_factor).backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            if chosen is optimizer:
                guard.note(norm, step=step)
                guard.hold(optimizer)
                optimizer.step()
            elif step < 3:
                reference.step()
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert [float(state["step"]) for state in optimizer.state.values()] == [2.0, 2.0]
    with pytest.raises(PipelineError, match=r"is nan at step 3 \(training diverged at learning rate 0\.0001;"):
        guard.require_finite(rate=1e-4)


def test_a_weight_that_is_not_finite_is_not_saved() -> None:
    model = nn.Linear(2, 2)
    Guard(peak_rate=1e-3).require_finite(model, rate=1e-4)
    with torch.no_grad():
        model.bias[1] = float("inf")
    with pytest.raises(PipelineError, match="a weight is nan before a checkpoint was saved"):
        Guard(peak_rate=1e-3).require_finite(model, rate=1e-4)
