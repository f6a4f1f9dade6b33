"""A data worker that hangs on one rank ends the job within the stated time."""

import time
from pathlib import Path

import psutil

from pipeline.runs.checkpoints import newest_complete_checkpoint
from tests.launch.conftest import Launch


def test_a_stopped_data_worker_of_one_rank_ends_the_job_which_can_be_resumed(
    launch: Launch, tmp_path: Path, tiny_vit: Path, photos: Path
) -> None:
    words = ["--num_processes", 2, "-m", "pipeline", "train", f"--model_name_or_path={tiny_vit}"]
    words += [f"--dataset_name={photos}", f"--output_dir={tmp_path / 'run'}", "--precision=fp32", "--report=no"]
    words += [
        "--global_batch_size=12",
        "--num_train_epochs=5000",
        "--dataloader_num_workers=1",
        "--dataloader_timeout=3",
    ]
    job = launch(*words)
    while not (tmp_path / "run" / "checkpoint-6").exists():
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    ranks = {
        child.environ()["RANK"]: child for child in psutil.Process(job.pid).children() if "RANK" in child.environ()
    }
    (worker, *_) = (child for child in ranks["1"].children() if child.cmdline() == ranks["1"].cmdline())
    processes = psutil.Process(job.pid).children(recursive=True)
    start = time.monotonic()
    worker.suspend()
    output, _ = job.communicate(timeout=100)
    assert time.monotonic() - start < 40
    assert job.returncode != 0
    assert f"rank 1: error: no batch of images has arrived from the data workers {worker.pid} (stopped)" in output
    assert (
        "for 3 s: check the disk or network mount, or raise --dataloader_timeout; then repeat the command\n" in output
    )
    assert not psutil.wait_procs(processes, timeout=10)[1]
    assert newest_complete_checkpoint(tmp_path / "run") is not None
