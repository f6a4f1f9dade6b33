"""Fixtures that start several processes on this machine with `accelerate launch` and the shipped launch files."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.config import RECIPES

ROOT = Path(__file__).parents[2]
Launch = Callable[..., subprocess.Popen[str]]


def environment(tmp: Path) -> dict[str, str]:
    """Return the environment of a job on CPUs without network. Variables of another launcher are removed."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return inherited | {
        "ACCELERATE_USE_CPU": "true",
        "CI": "true",  # transformers then hands its warnings to the root logger, where tests see them
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp / "datasets"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


@contextlib.contextmanager
def launcher(folder: Path) -> Iterator[Launch]:
    """Yield a function that starts `accelerate launch` in a folder. Kill all remaining processes at the end.

    Args:
        folder: Working directory of the processes.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, file: str | None = "one-machine") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(RECIPES / "accelerate" / f"{file}.yaml")] if file else []
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start `accelerate launch` in the temporary folder of the test."""
    with launcher(tmp_path) as start:
        yield start
