"""The end of the process: exit code, output, threads and exit handlers as usual, but objects are not freed."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, sys, threading, time
from pipeline import ending

class Freed:
    def __del__(self):
        os.write(1, b"freed\\n")

def work():
    time.sleep(0.2)
    print("thread")

kept = Freed()
ending.end_quickly()
atexit.register(print, "handler")
threading.Thread(target=work).start()
"""


def ended(lines: str) -> tuple[int, str, str]:
    """Run the program with further lines; return exit code, output and messages."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + lines], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("code", [0, 2, 130])
def test_it_waits_for_threads_and_handlers_and_frees_nothing(code: int) -> None:
    assert ended(f"ending.leave({code})") == (code, "thread\nhandler\n", "")


def test_a_bug_ends_as_usual() -> None:
    code, output, messages = ended("raise RuntimeError('a bug')")
    assert code == 1
    assert "RuntimeError: a bug" in messages
    assert output == "thread\nhandler\nfreed\n"


def test_a_closed_pipe_is_no_error() -> None:
    lines = "threads = threading.enumerate()[1:]\n[each.join() for each in threads]\nos.close(1)\n"
    assert ended(lines + "ending.leave(3)")[0] == 3
