"""Program of each process in `test_two_processes`: it runs several command lines in one process group.

    accelerate launch ... -m tests.launch.worker FOLDER

`FOLDER/jobs.json` lists the jobs. Each process writes their results to `FOLDER/rank<N>.json`.
"""

import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from pipeline import cli, distributed


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run the command line `arguments` of a job in its `folder`.

    A job can have keys for one rank N: `argumentsN` (appended), `folderN` (instead of `folder`) and `signalN` (the
    rank receives SIGTERM as soon as this path exists).

    Returns:
        Exit code, stdout and stderr as `code`, `out` and `err`.
    """
    rank = distributed.rank()
    os.chdir(job.get(f"folder{rank}", job["folder"]))
    if path := job.get(f"signal{rank}"):
        threading.Thread(target=send_signal_after, args=(Path(path),), daemon=True).start()
    logging.getLogger().handlers.clear()  # The command line adds a handler for the stderr of this job.
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*job["arguments"], *job.get(f"arguments{rank}", [])])
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def send_signal_after(path: Path) -> None:
    while not path.exists():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    jobs: dict[str, dict[str, Any]] = json.loads((folder / "jobs.json").read_text())
    results = {name: run(job) for name, job in jobs.items()}
    (folder / f"rank{distributed.rank()}.json").write_text(json.dumps(results))
    distributed.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
