"""Two processes with a thread each against one with two: images a second of the training step, same global batch.

    python -m tests.benchmarks.processes [--rounds 5] [--steps 40]

The small ViT of `step`, on a CPU. Rounds alternate, so that a noisy machine disturbs both alike; printed are medians,
their range over the rounds, and the median of the rounds' ratios. Started by a launcher, it is one of the processes.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from pipeline import distributed
from pipeline.config import RECIPES
from tests.benchmarks.step import CASES, load_train, trainer_rate

GLOBAL_BATCH = 32
ROOT = Path(__file__).parents[2]


def measure(count: int, steps: int) -> float:
    """Images a second of a job of `count` processes, which share two threads."""
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
    """Train as one of the processes; the first of them prints the rate of all."""
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
    for turn in range(options.rounds):
        for count in (1, 2) if turn % 2 else (2, 1):
            rates[count].append(measure(count, options.steps))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    for count, name in {1: "one process, two threads", 2: "two processes, a thread each"}.items():
        print(
            f"{name}: {statistics.median(rates[count]):.1f} [{min(rates[count]):.1f}, {max(rates[count]):.1f}] images/s"
        )
    print(f"ratio {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")


if __name__ == "__main__":
    main()
