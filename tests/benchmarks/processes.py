"""Compare the training throughput of two processes with one thread each and of one process with two threads.

    python -m tests.benchmarks.processes [--rounds 5] [--steps 40]

Both sides train the small ViT of `step` on a CPU with the same global batch size. The rounds alternate which side runs
first, so that noise of the machine affects both sides equally. The program prints the medians and ranges of both sides
and of their ratio.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from pipeline import distributed
from pipeline.config import RECIPES
from tests.benchmarks.baselines import median_and_range
from tests.benchmarks.step import CASES, load_train, trainer_rate

GLOBAL_BATCH = 32
ROOT = Path(__file__).parents[2]


def measure(count: int, steps: int) -> float:
    """Return the images per second of a job with `count` processes that share two threads."""
    program = ["-m", "tests.benchmarks.processes", "--worker", "--steps", str(steps)]
    file = str(RECIPES / "accelerate" / "one-machine.yaml")
    launcher = ["-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", str(count)]
    threads = {"OMP_NUM_THREADS": str(2 // count), "ACCELERATE_USE_CPU": "true"}
    finished = subprocess.run(
        [sys.executable, *(launcher if count > 1 else []), *program],
        cwd=ROOT,
        env=os.environ | threads,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(finished.stdout.split()[-1])


def work(steps: int) -> None:
    """Train as one process of a job; the main process prints the throughput of the job."""
    shape, _ = CASES["small"]
    count = distributed.world_size()
    rate = trainer_rate(shape, GLOBAL_BATCH // count, steps, load_train())
    if distributed.is_main_process():
        print(rate * count)
    distributed.shut_down()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.steps)
        return
    rates: dict[int, list[float]] = {1: [], 2: []}
    for index in range(options.rounds):
        for count in (1, 2) if index % 2 else (2, 1):
            rates[count].append(measure(count, options.steps))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    for count, name in {1: "one process, two threads", 2: "two processes, one thread each"}.items():
        print(f"{name}: {median_and_range(rates[count])} images/s")
    print(f"ratio {median_and_range(ratios, digits=3)}")


if __name__ == "__main__":
    main()
