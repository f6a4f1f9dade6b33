"""Launchers: the shipped launch files, two machines, a killed rank, and fewer processes than requested."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from pipeline.config import RECIPES
from pipeline.runs.checkpoints import newest_complete_checkpoint
from pipeline.runs.folder import RunFolder
from tests.launch.conftest import Launch

FILES = sorted((RECIPES / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_launch_file_starts_several_processes_and_sets_no_precision(file: Path) -> None:
    launch = load_config_from_file(str(file))
    assert launch.distributed_type == DistributedType.MULTI_GPU  # Other types start one process.
    assert launch.num_processes == -1  # Accelerate then requires --num_processes.
    assert launch.mixed_precision == "no"
    assert not launch.use_cpu


def test_two_launchers_on_one_machine_act_as_two_machines(
    launch: Launch, train_flags: list[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    train = ["-m", "pipeline", "train", *train_flags, "--max_steps=2", "--output_dir=run"]
    address = ["--num_machines", 2, "--num_processes", 2, "--main_process_ip", "127.0.0.1", "--main_process_port", port]
    jobs = [launch(*address, "--machine_rank", rank, *train, file="several-machines") for rank in (0, 1)]
    outputs = [job.communicate(timeout=180)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert "cpu x2" in outputs[0]
    assert "run is finished" in outputs[0]
    assert "accuracy" not in outputs[1]
    assert RunFolder(tmp_path / "run").record["machine"]["processes"] == 2


def test_a_killed_rank_ends_the_job(launch: Launch, train_flags: list[str], tmp_path: Path) -> None:
    train = ["train", *train_flags, "--num_train_epochs=5000", "--output_dir=run", "--logging_steps=1000"]
    job = launch("--num_processes", 2, "-m", "pipeline", *train)
    wait_for(lambda: any(tmp_path.glob("run/checkpoint-*/trainer_state.json")), job)
    ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if p.environ().get("RANK")]
    assert sorted(p.environ()["RANK"] for p in ranks) == ["0", "1"]
    next(p for p in ranks if p.environ()["RANK"] == "1").kill()
    start = time.monotonic()
    output, _ = job.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert job.returncode != 0, output
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert alive == []


def test_a_rank_that_hangs_ends_the_job_which_can_be_resumed(
    launch: Launch, train_flags: list[str], tmp_path: Path
) -> None:
    """The main process is stopped, so the other one reports it; the launcher kills what is left after 30 s."""
    train = ["train", *train_flags, "--num_train_epochs=5000", "--output_dir=run", "--logging_steps=1000"]
    job = launch("--num_processes", 2, "-m", "pipeline", *train, "--ddp_timeout=3")
    wait_for(lambda: any(tmp_path.glob("run/checkpoint-*/manifest.json")), job)
    ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if p.environ().get("RANK")]
    next(p for p in ranks if p.environ()["RANK"] == "0").suspend()
    start = time.monotonic()
    output, _ = job.communicate(timeout=90)
    assert time.monotonic() - start < 60
    assert job.returncode != 0, output
    assert "rank 1: error: another rank has ended, or has not answered for 3 s (--ddp_timeout)" in output
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert alive == []
    assert newest_complete_checkpoint(tmp_path / "run") is not None


def test_fewer_processes_than_requested_are_rejected(launch: Launch, train_flags: list[str], tmp_path: Path) -> None:
    job = launch("--cpu", "--num_processes", 2, "-m", "pipeline", "train", *train_flags, file=None)
    output, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "error: accelerate launch was asked for 2 processes but started 1\nadd --multi_gpu" in output
    assert not (tmp_path / "outputs").exists()


def wait_for(condition: Callable[[], bool], job: subprocess.Popen[str], *, seconds: float = 120) -> None:
    """Wait until the condition is true while the job runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
