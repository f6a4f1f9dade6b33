"""Secrets are masked, and errors from outside of the program are one line."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Dataset

from pipeline import cli
from pipeline.errors import PipelineError, explain_outside_error, mask, mask_words, presentable

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf_AbCdEfGhIjKlMnOpQrSt is bad", "hf_*** is bad"),
        ("--api_key=abc def", "--api_key=*** def"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIA***"),
        ("ghp_abcdefghijklmnop1234", "ghp_***"),
    ],
)
def test_a_secret_is_masked(text: str, shown: str) -> None:
    assert mask(text) == shown
    assert str(PipelineError(text)) == shown


@pytest.mark.parametrize(
    "text", ["hf_datasets/photos", "--average_tokens_across_devices=False", "/data/key=3/a.jpg", "--learning_rate=1"]
)
def test_other_words_are_not_masked(text: str) -> None:
    assert mask(text) == text


def test_an_error_of_a_data_worker_has_no_traceback() -> None:
    loader: DataLoader[int] = DataLoader(Failing(), num_workers=1)
    with pytest.raises(PipelineError, match=r"\Aa\.jpg is not an image: remove it\nb\.jpg too\Z"):
        list(loader)


class Failing(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise PipelineError("a.jpg is not an image: remove it\nb.jpg too")


def test_the_recorded_command_has_no_secret() -> None:
    words = ["train", "--hub_token", "abc", "--token=abc", "--seed", "1", "--api_key", "--auto"]
    assert mask_words(words) == ["train", "--hub_token", "***", "--token=***", "--seed", "1", "--api_key", "--auto"]


def test_a_log_line_has_no_secret() -> None:
    record = logging.LogRecord("pipeline", logging.INFO, "", 0, "pushing with %s", ("hf_AbCdEfGhIjKlMnOp",), None)
    assert cli._WithoutSecrets().format(record) == "pushing with hf_***"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG, errno.EDQUOT])
def test_an_error_of_the_system_names_path_and_remedy(number: int) -> None:
    text = explain_outside_error(OSError(number, "the reason", "/data/x"))
    assert text is not None
    assert text.startswith("/data/x cannot be used (the reason): ")
    wrapped = RuntimeError("library")
    wrapped.__cause__ = OSError(number, "the reason", "/data/x")
    assert explain_outside_error(wrapped) == text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_running_out_of_memory_names_what_to_lower(error: Exception) -> None:
    text = str(explain_outside_error(error))
    assert text.startswith("not enough memory (")
    assert ": lower --per_device_train_batch_size, --per_device_eval_batch_size, --dataloader_num_workers or " in text


def test_a_killed_process_of_a_library_is_explained() -> None:
    error = RuntimeError("One of the subprocesses has abruptly died during map operation.To debug the error, disable")
    assert str(explain_outside_error(error)).startswith(
        "a data worker died (One of the subprocesses has abruptly died)"
    )


def test_errors_of_other_libraries_are_explained() -> None:
    assert "free disk space" in str(explain_outside_error(SafetensorError("No space left on device (os error 28)")))
    assert "hf auth login" in str(explain_outside_error(LocalTokenNotFoundError("no token")))


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), ValueError("x"), OSError("x"), KeyError("x")])
def test_a_bug_stays_a_traceback(error: Exception) -> None:
    assert explain_outside_error(error) is None


@pytest.mark.parametrize("name", ["x" * 300, "file/" + "y" * 300])
def test_a_path_that_is_too_long_is_one_line(vit_pipeline: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    words = ["--dataset_name=synthetic-flowers", "--model_name_or_path=synthetic-flowers-base"]
    for flag in ("--output_dir", "--dataset_name", "--model_name_or_path", "--config"):
        code, _, err = vit_pipeline("train", *words, f"{flag}={tmp_path / name}")
        assert code == 2
        assert "Traceback" not in err
        assert err.startswith("error: ")


def test_control_characters_and_secrets_of_the_environment_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "my_planted_token")
    monkeypatch.setenv("A_KEY", "short")
    monkeypatch.setenv("PWD", "/home/me/photos")  # the working directory
    assert presentable("/home/me/photos/red") == "/home/me/photos/red"
    assert presentable("a\x1b[31m my_planted_token short\n\tb\r") == "a⟨U+001B⟩[31m *** short\n\tb⟨U+000D⟩"
    assert str(PipelineError("my_planted_token\x07")) == "***⟨U+0007⟩"
