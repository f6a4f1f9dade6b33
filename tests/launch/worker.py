"""What each process of a launched test job runs: several command lines, one after the other, in one process group.

    accelerate launch ... -m tests.launch.worker FOLDER

`FOLDER/jobs.json` lists the jobs. What came of them, each process writes to `FOLDER/rank<N>.json`.
"""

import contextlib
import io
import json
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
    """Run one job: its `words` in its `folder`.

    For one rank there may be more: `words1`, `folder1`, or `signal1`, a path after which it gets SIGTERM.
    """
    here = str(distributed.rank())
    os.chdir(job.get(f"folder{here}", job["folder"]))
    if path := job.get(f"signal{here}"):
        threading.Thread(target=send_signal_after, args=(Path(path),), daemon=True).start()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*job["words"], *job.get(f"words{here}", [])])
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
