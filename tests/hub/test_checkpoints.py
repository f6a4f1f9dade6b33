"""Checkpoints are pushed during training, a failed push is a warning, and another machine continues the run.

All of it happens in one subprocess, because the clients read the address of the Hub when they are imported.
"""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.hub_faults import client_of_a_fake_hub, short_waits

Report = dict[str, Any]
REPO = "tester/unfinished"


def use_the_client(root: Path, train: list[str]) -> None:
    """Train on two machines, and print a report."""
    with client_of_a_fake_hub(root) as hub, short_waits():
        from huggingface_hub import HfApi

        from pipeline import cli
        from pipeline.runs.files import read_json

        log = io.StringIO()
        logging.basicConfig(stream=log)
        logging.getLogger("pipeline").setLevel(logging.INFO)
        pushed: list[list[str]] = []
        push = HfApi.create_commit

        def stop_after_the_second(*args: Any, **kwargs: Any) -> Any:
            """Stop training at the first step after a push, as a machine does that is needed by others."""
            done = push(*args, **kwargs)
            pushed.append(sorted({name.partition("/")[0] for name in hub.files("model", REPO)}))
            if len(pushed) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return done

        def run(folder: Path, *flags: str) -> int:
            words = [*train, f"--output_dir={folder}", "--report=no", "--uncertainty=no", "--audit=no"]
            return cli.main(["train", *words, *flags])

        to_hub = ("--push_to_hub", f"--hub_model_id={REPO}", "--hub_strategy=checkpoint")
        report: Report = {"whole": run(root / "whole")}
        hub.fail("POST", "/commit/", status=403, times=1)  # of the first push
        HfApi.create_commit = stop_after_the_second  # type: ignore[method-assign]
        report["stopped"] = run(root / "one" / "run", *to_hub)
        report["pushed"] = pushed.copy()
        files = hub.files("model", REPO)
        report["paths"] = [name for name, content in files.items() if str(root).encode() in content]
        newest = max(int(name.removeprefix("checkpoint-")) for name in pushed[-1] if name.startswith("checkpoint-"))
        report["complete"] = sorted(n.partition("/")[2] for n in files if n.startswith(f"checkpoint-{newest}/"))
        state = json.loads(files[f"checkpoint-{newest}/trainer_state.json"])
        report["step"] = state["global_step"]
        shutil.rmtree(root / "one")
        report["continued"] = run(root / "other" / "machine", *to_hub)
        report["log"] = log.getvalue()
        report["left"] = sorted(path.name for path in (root / "other").iterdir())
        report["files"] = sorted(hub.files("model", REPO))
        weights = [(root / name / "model.safetensors").read_bytes() for name in ("whole", "other/machine")]
        report["equal"] = weights[0] == weights[1] == hub.files("model", REPO)["model.safetensors"]
        report["epochs"] = read_json(root / "other/machine" / "trainer_state.json")["epoch"]
    json.dump(report, sys.stdout)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, train_flags: list[str]) -> Report:
    root = tmp_path_factory.mktemp("checkpoints")
    flags = [*train_flags, "--num_train_epochs=12"]
    process = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import *; use_the_client(Path({str(root)!r}), {flags!r})"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    found: Report = json.loads(process.stdout[process.stdout.index('{"whole"') :])
    return found


def test_the_newest_and_the_best_checkpoint_are_pushed(report: Report) -> None:
    assert report["stopped"] == 143, report["log"]
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "optimizer.pt", "scheduler.pt"}
    names |= {"rng_state.pth", "trainer_state.json", "manifest.json"}
    assert report["complete"] == sorted(names)
    assert all({"recipe.yaml", "run.json"} < set(names) for names in report["pushed"])
    assert all(1 <= sum(name.startswith("checkpoint-") for name in names) <= 2 for names in report["pushed"])
    assert report["paths"] == []


def test_a_failed_push_is_a_warning_and_training_continues(report: Report) -> None:
    assert "WARNING:pipeline.training.callbacks.pushing:checkpoint-6 was not pushed, and training con" in report["log"]
    assert "pushed checkpoint-" in report["log"]


def test_another_machine_continues_the_run_and_ends_with_the_same_weights(report: Report) -> None:
    assert report["continued"] == 0, report["log"]
    assert f"continuing the unfinished run in {REPO} on the Hub" in report["log"]
    assert f"resuming from checkpoint-{report['step']}" in report["log"]
    assert report["epochs"] == 12
    assert report["equal"]
    assert report["left"] == ["machine"]


def test_the_finished_run_replaces_the_checkpoints(report: Report) -> None:
    assert not [name for name in report["files"] if name.startswith("checkpoint-")]
    assert {"model.safetensors", "README.md", "predictions.parquet"} < set(report["files"])
