"""Trainings that are killed, damaged or stopped by signals end with the bytes of undisturbed ones.

The complete program is `python -m tests.benchmarks.faults`. It forks its trainings, so it runs in another process.
"""

import subprocess
import sys
from pathlib import Path

from tests.launch.conftest import ROOT, environment


def test_interrupted_and_damaged_trainings_end_like_undisturbed_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.faults", "--short"]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 7  # kills, damage of two checkpoints, four signals
    assert all("exact" in row for row in rows)
