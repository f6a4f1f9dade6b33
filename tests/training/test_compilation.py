"""`--compile auto`: what is compiled, and when that is undone."""

import functools
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training import compilation
from tests.training.fitting import STEPS_AN_EPOCH, Fitted, settings_of

TRIED = compilation._WARM_UP + compilation._TIMED  # steps of each way
EPOCHS = 2 * TRIED // STEPS_AN_EPOCH + 1


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Images of each call of a compiled network; nothing is generated, so that this takes no minute."""
    seen: list[int] = []
    compile_ = torch.compile

    def watched(network: Any, **options: Any) -> Any:
        graphs = compile_(network, backend="eager", **options)

        def call(**inputs: Any) -> Any:
            seen.append(len(inputs["pixel_values"]))
            return graphs(**inputs)

        return call

    monkeypatch.setattr(torch, "compile", watched)
    with torch._dynamo.config.patch(suppress_errors=False):  # which also takes back what is set within
        yield seen
    torch._dynamo.reset()


def pace(monkeypatch: pytest.MonkeyPatch, batches: list[int], *, compiled: float) -> None:
    """Let a compiled step take so many times the second that another takes."""
    now = [0.0]

    def clock() -> float:
        now[0] += compiled if batches else 1.0
        return now[0]

    monkeypatch.setattr(compilation, "time", SimpleNamespace(perf_counter=clock))


@pytest.mark.parametrize(("compiled", "kept"), [(0.5, True), (2.0, False)])
def test_the_faster_way_is_kept(
    fitted: Callable[..., Fitted],
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compiled: float,
    kept: bool,
) -> None:
    monkeypatch.setattr(compilation, "REPAYS", 1.0)
    caplog.set_level(logging.INFO, "pipeline")
    pace(monkeypatch, batches, compiled=compiled)
    run = fitted(compile="auto", num_train_epochs=EPOCHS)
    steps = EPOCHS * STEPS_AN_EPOCH
    assert len(batches) == (steps - TRIED if kept else TRIED)
    assert f"a step takes {compiled:.2f} of its time before" in caplog.text
    assert ("goes on compiled" if kept else "goes on as it was") in caplog.text
    assert run.log("loss")[-1] < run.log("loss")[0] / 2


def test_a_smaller_last_batch_is_not_compiled(
    fitted: Callable[..., Fitted], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "REPAYS", 1.0)
    pace(monkeypatch, batches, compiled=0.5)
    fitted(compile="auto", per_device_train_batch_size=8, num_train_epochs=EPOCHS)  # 36 images: 8, 8, 8, 8, 4
    assert set(batches) == {8}


def test_compiled_and_plain_steps_learn_the_same(
    fitted: Callable[..., Fitted], batches: list[int], monkeypatch: pytest.MonkeyPatch, tiny_vit: Any
) -> None:
    monkeypatch.setattr(compilation, "REPAYS", 1.0)
    pace(monkeypatch, batches, compiled=0.5)
    plain, compiled = (
        fitted(name, vit=tiny_vit, compile=name, num_train_epochs=EPOCHS).log("loss") for name in ("no", "auto")
    )
    assert batches
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_a_compiler_that_fails_stops_nothing(
    fitted: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch, tiny_vit: Any
) -> None:
    tried = []

    def broken(graph: Any, inputs: Any) -> Any:
        del inputs
        tried.append(graph)
        raise OSError("no compiler")

    monkeypatch.setattr(compilation, "REPAYS", 0.0)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with torch._dynamo.config.patch(suppress_errors=False):
        plain, compiled = (
            fitted(name, vit=tiny_vit, compile=name, num_train_epochs=EPOCHS).log("loss") for name in ("no", "auto")
        )
    torch._dynamo.reset()
    assert tried
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_a_short_training_is_not_compiled(
    fitted: Callable[..., Fitted], batches: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    fitted(compile="auto")
    assert not batches
    assert "not compiled" in caplog.text


def test_it_excludes_the_trainers_own_flag() -> None:
    with pytest.raises(PipelineError, match="leave one out"):
        settings_of(compile="auto", torch_compile=True)
