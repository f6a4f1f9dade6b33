"""Start a command line in a forked process: milliseconds in place of the seconds that imports take.

The child is an ordinary process: it has its own pid and files, and can be killed. In shared memory it notes its phase
and its step, so that the parent can interrupt it inside a save.
"""

import contextlib
import importlib
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import pipeline.workflows.push
import pipeline.workflows.train
from pipeline import cli, signals
from pipeline.models.classifier import ImageClassifier
from pipeline.performance.matmul import matmul_rate
from pipeline.runs import checkpoints
from pipeline.training.callbacks.divergence import Guard
from pipeline.training.trainer import StrictTrainer
from tests.conftest import COLORS, noisy_image, save_vit

PHASES = ["start", "train", "eval", "save", "rotate", "best", "artefact", "score", "results"]
_WATCH = mmap.mmap(-1, 4096)
_WORD = struct.Struct("<i")


def phase() -> str:
    """Return the phase in which the child is."""
    return PHASES[_read(0)]


def step() -> int:
    """Return the optimizer steps that the child has done."""
    return _read(1)


def times_entered(name: str) -> int:
    """Return how often the child has entered a phase."""
    return _read(2 + PHASES.index(name))


def _read(position: int) -> int:
    value: int = _WORD.unpack_from(_WATCH, position * _WORD.size)[0]
    return value


def _write(position: int, value: int) -> None:
    _WORD.pack_into(_WATCH, position * _WORD.size, value)


def _enter(name: str) -> None:
    number = PHASES.index(name)
    _write(0, number)
    _write(2 + number, _read(2 + number) + 1)


def _watch(owner: Any, name: str, phase_name: str) -> None:
    """Note when a function of the pipeline is entered and left."""
    function: Callable[..., Any] = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        before = _read(0)
        _enter(phase_name)
        try:
            return function(*args, **kwargs)
        finally:
            _write(0, before)

    setattr(owner, name, watched)


def _watch_all() -> None:
    train: Any = pipeline.workflows.train
    for owner, name, phase_name in (
        (StrictTrainer, "evaluate", "eval"),
        (StrictTrainer, "_save_checkpoint", "save"),
        (StrictTrainer, "load_best_weights", "best"),
        (checkpoints, "rotate", "rotate"),
        (ImageClassifier, "save", "artefact"),
        (train, "score_and_report", "score"),
        (pipeline.workflows.results, "_write_results", "results"),
    ):
        _watch(owner, name, phase_name)
    training_step: Callable[..., Any] = StrictTrainer.training_step

    def watched(self: StrictTrainer, *args: Any, **kwargs: Any) -> Any:
        _write(1, self.state.global_step)
        if phase() != "train":
            _enter("train")
        return training_step(self, *args, **kwargs)

    StrictTrainer.training_step = watched  # type: ignore[method-assign,assignment]


def _plant_divergence() -> None:
    """Make the gradients of one step NaN, unless its learning rate was halved."""
    look = Guard.look

    def diverging(self: Guard, norm: Any, *, step: int, rate: float, optimizer: Any) -> None:
        norm = torch.tensor(torch.nan) if step == 20 and rate > 5e-4 else norm
        look(self, norm, step=step, rate=rate, optimizer=optimizer)

    Guard.look = diverging  # type: ignore[method-assign]


def preload(words: Sequence[object], output: Path) -> None:
    """Run a command, then import in this process what it imported, and measure once what each training measures."""
    names = output.with_name("modules.txt")
    wait(spawn(words, output, modules=names))
    for name in names.read_text().split():
        with contextlib.suppress(Exception):  # some modules cannot be imported alone
            importlib.import_module(name)
    for precision in ("fp32", "bf16"):
        matmul_rate(torch.device("cpu"), precision)


def spawn(words: Sequence[object], output: Path, *, modules: Path | None = None) -> int:
    """Run a command line in a new process and process group, append what it prints to a file, and return its pid.

    Args:
        words: The command line.
        output: The file for what it prints.
        modules: A file for the names of the modules that it imported.
    """
    _WATCH[:] = bytes(len(_WATCH))
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _watch_all()
        if "--on_nan=rewind" in words:
            _plant_divergence()
        signals.leave_while_starting()
        _enter("start")
        code = cli.main([str(word) for word in words])
        if modules is not None:
            modules.write_text("\n".join(sys.modules))
    except BaseException:  # noqa: BLE001 (the child must not return into the program of its parent)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, timeout: float = 120) -> int | None:
    """Return the exit code, negative for a signal; None if the process had to be killed because it was late."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def make_data(root: Path) -> None:
    """Write class folders that are hard to learn, and a ViT with dropout."""
    torch.set_num_threads(1)
    for number, (split, count) in enumerate({"train": 24, "validation": 8, "test": 8}.items()):
        for c, name in enumerate(COLORS):
            (root / "photos" / split / name).mkdir(parents=True)
            color = (112 + 14 * (c == 0), 112 + 14 * (c == 1), 112 + 14 * (c == 2))
            for i in range(count):
                image = noisy_image(color, seed=number * 10_000 + c * 1000 + i)
                image.save(root / "photos" / split / name / f"{i:03}.png")
    save_vit(root / "vit", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
