"""Training with a compiled step: the same results, also of an incomplete batch, of a resume, and if compiling fails."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models.classifier import ImageClassifier
from pipeline.training.fine_tune import decides_to_compile, steps_of
from tests.conftest import save_vit
from tests.training.fitting import Fitted, same, settings_of

COMPILED: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
LAST_BATCH_OF_FOUR: dict[str, Any] = {"per_device_train_batch_size": 8, "num_train_epochs": 2}  # 36 images


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT without dropout, whose random numbers depend on the size of a batch."""
    return save_vit(tmp_path_factory.mktemp("vit"))


@pytest.mark.parametrize(("flag", "decided"), [(None, False), (True, True), (False, False)])
def test_on_a_cpu_only_the_user_decides_to_compile(flag: bool | None, decided: bool) -> None:
    classifier: Any = None  # auto does not look at the network on a CPU
    assert decides_to_compile(settings_of(torch_compile=flag), classifier, images=10**9) is decided


def test_the_steps_are_named_after_the_network_the_batch_and_the_device(vit: Path) -> None:
    steps = steps_of(ImageClassifier.load(vit), settings_of(per_device_train_batch_size=6).trainer)
    assert (steps.network, steps.batch, steps.precision, steps.device) == (
        "ViTForImageClassification",
        6,
        "fp32",
        "cpu",
    )
    assert torch.__version__ in steps.key


def test_a_compiled_run_has_the_weights_and_the_scores_of_another_one(
    fitted: Callable[..., Fitted], vit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last batch of an epoch has four of eight images, and is filled up."""
    with caplog.at_level(logging.INFO):
        one = fitted("compiled", vit=vit, **LAST_BATCH_OF_FOUR, **COMPILED)
    other = fitted("plain", vit=vit, **LAST_BATCH_OF_FOUR)
    assert any("torch.compile took" in message for message in caplog.messages)
    assert one.metrics["speed"]["compiled"] is True
    assert other.metrics["speed"]["compiled"] is False
    assert {len(batch) for batch in one.seen} == {8}
    assert {len(batch) for batch in other.seen} == {4, 8}
    for key in ("loss", "eval_loss", "eval_accuracy", "grad_norm"):
        assert one.log(key) == pytest.approx(other.log(key), rel=1e-3, abs=1e-5), key
    assert one.model._compiled_call_impl is None


def test_a_compiled_run_resumes_to_the_bit(fitted: Callable[..., Fitted], tmp_path: Path) -> None:
    """With dropout, so that the random states must not depend on compiling again."""
    every: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
    every |= {"save_total_limit": None, **LAST_BATCH_OF_FOUR, **COMPILED}
    whole = fitted("whole", **every)
    for step in (3, 6):
        shutil.copytree(whole.folder / f"checkpoint-{step}", tmp_path / "parts" / f"checkpoint-{step}")
    parts = fitted("parts", **every)
    assert parts.log("loss") == whole.log("loss")
    assert same(dict(whole.model.state_dict()), dict(parts.model.state_dict()))


def test_if_compiling_fails_the_run_goes_on_as_without_it(
    fitted: Callable[..., Fitted], vit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = fitted("failing", vit=vit, num_train_epochs=1, torch_compile=True, torch_compile_backend="missing")
    plain = fitted("plain", vit=vit, num_train_epochs=1)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("torch.compile failed (")
    assert warning.endswith("); training without it")
    assert "\n" not in warning
    assert same(dict(failing.model.state_dict()), dict(plain.model.state_dict()))
