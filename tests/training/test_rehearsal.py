"""Settings that only the Trainer rejects are one line, before images are loaded."""

from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.training.rehearsal import rehearse
from tests.training.fitting import settings_of


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"adam_beta1": 2.0}, "--adam_beta1 2.0 (ValueError: Invalid beta parameter at index 0: 2.0)"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            "--lr_scheduler_type cosine_with_min_lr (ValueError: One of min_lr",
        ),
        ({"lr_scheduler_kwargs": '{"a": 1}'}, "--lr_scheduler_kwargs {'a': 1} (TypeError: "),
        ({"optim": "lion_8bit"}, "--optim lion_8bit (ImportError: You need to install `bitsandbytes`"),
        ({"torch_compile_backend": "x"}, "--torch_compile_backend x (ValueError: 'X' is not a valid DynamoBackend)"),
        ({"seed": -1}, "--seed -1 (ValueError: Seed must be between 0 and 2**32 - 1)"),
    ],
)
def test_what_the_trainer_rejects_is_one_line_with_the_flag(flags: dict[str, Any], expected: str) -> None:
    with pytest.raises(PipelineError) as error:
        rehearse(settings_of(**flags).trainer)
    assert str(error.value).startswith(f"the Trainer rejects {expected}")
    assert str(error.value).endswith("): use another value, or remove it")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr": 1e-6}'},
        {"optim": "sgd", "label_smoothing_factor": 0.1, "warmup_steps": 0.2, "early_stopping_patience": 2},
        {"precision": "bf16", "torch_compile": True, "auto_find_batch_size": True},
    ],
)
def test_usual_settings_are_accepted(flags: dict[str, Any]) -> None:
    rehearse(settings_of(**flags).trainer)
