"""One command at a time writes into a run folder; a command that ended or was killed does not block it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.runs.lock import LOCK, lock

HOLD = """
import sys, time
from pathlib import Path
from pipeline.runs.lock import lock
with lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_folder_is_created_and_an_empty_one_is_removed(tmp_path: Path) -> None:
    with lock(tmp_path / "outputs" / "run"):
        assert (tmp_path / "outputs" / "run" / LOCK).exists()
    assert not (tmp_path / "outputs").exists()


def test_files_stay(tmp_path: Path) -> None:
    with lock(tmp_path / "run"):
        (tmp_path / "run" / "model").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_a_second_command_is_rejected_while_the_first_runs(tmp_path: Path) -> None:
    rejected = pytest.raises(PipelineError, match=r"another command is writing into .*: wait until it ends")
    with lock(tmp_path), rejected, lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_a_killed_command_does_not_keep_the_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(PipelineError, match="another command"), lock(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    with lock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    rejected = pytest.raises(PipelineError, match=r"cannot write into .*file/run \(Not a directory\): choose another")
    with rejected, lock(tmp_path / "file" / "run"):
        pass
