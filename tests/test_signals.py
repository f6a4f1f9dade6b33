"""Signals: one line, the right exit code, and children that leave the decision to the main process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline import signals

PROGRAM = """
import os, signal, sys, time
from pipeline import signals
def wait(seconds):  # in short steps: a signal just before a sleep is handled after it
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
signals.leave_while_starting()
if sys.argv[1] == "starting":
    print("ready", flush=True)
    wait(60)
try:
    with signals.raised():
        try:
            print("ready", flush=True)
            wait(60)
        finally:
            if sys.argv[1] == "slow":
                wait(30)
            print("cleaned up", flush=True)
except KeyboardInterrupt as stop:
    print(stop, flush=True)
    signals.ignore_while_ending()
    sys.exit(128 + stop.number)
"""


@pytest.fixture(autouse=True)
def no_nohup() -> Iterator[None]:
    """Let children notice SIGHUP, even if the tests were started with `nohup`."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


def send(phase: str, *numbers: int, gap: float = 0.0, ignored: bool = False) -> tuple[int, str, str]:
    """Send signals to a process and return its exit code, stdout and stderr."""
    command = [sys.executable, "-c", PROGRAM, phase]
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command] if ignored else command
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for position, number in enumerate(numbers):
            time.sleep(gap if position else 0)
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_ends_a_command_after_it_has_cleaned_up(number: signal.Signals) -> None:
    line = f"stopped by {number.name}: repeat the command; a training resumes from its last checkpoint\n"
    assert send("running", number) == (128 + number, f"cleaned up\n{line}", "")


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_while_python_imports_ends_the_process_with_one_line(number: signal.Signals) -> None:
    line = f"stopped at once by {number.name}: repeat the command; a training resumes from its last checkpoint\n"
    assert send("starting", number) == (128 + number, "", line)


def test_a_second_signal_ends_the_process_at_once() -> None:
    start = time.monotonic()
    code, out, err = send("slow", signal.SIGTERM, signal.SIGINT, gap=1.2)
    assert (code, out) == (130, "")
    assert err.startswith("stopped at once by SIGINT")
    assert time.monotonic() - start < 20


def test_the_signals_of_a_terminal_and_a_launcher_are_one_request() -> None:
    code, out, _ = send("running", signal.SIGINT, signal.SIGTERM, signal.SIGINT)
    assert code == 130
    assert out.startswith("cleaned up\nstopped by SIGINT")


def test_nohup_is_respected() -> None:
    code, out, _ = send("running", signal.SIGHUP, signal.SIGTERM, gap=0.2, ignored=True)
    assert code == 143
    assert "SIGTERM" in out


def test_ctrl_c_while_the_command_line_starts_is_one_line() -> None:
    """Before that, Python itself starts, in a few hundredths of a second."""
    wait = "lambda: (print(1, flush=True), [time.sleep(0.05) for _ in range(1200)])"
    code = f"import time, pipeline.__main__ as m, pipeline.cli as c; c.entry_point = {wait}; m.main()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.count("\n") == 1


def test_from_python_a_second_signal_raises_and_the_handlers_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SECONDS_OF_ONE_REQUEST", 0.0)
    handlers = {number: signal.getsignal(number) for number in signals.STOPPING}
    for _ in range(2):  # every training starts with no request
        received: list[int] = []
        with pytest.raises(signals.Stopped, match="SIGHUP"):
            ask_twice(received)
        assert received == [signal.SIGUSR1]
    assert {number: signal.getsignal(number) for number in signals.STOPPING} == handlers


def ask_twice(received: list[int]) -> None:
    with signals.handled(received.append):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGHUP)


def test_nothing_is_handled_in_a_thread() -> None:
    entered: list[bool] = []

    def work() -> None:
        with signals.handled(print):
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]


FORKED = """
import os, signal
from pipeline import signals

def actions():
    if pid := os.fork():
        os.waitpid(pid, 0)
    else:
        print([signal.getsignal(number).name[4:] for number in signals.STOPPING], flush=True)
        os._exit(0)

with signals.handled(print):
    actions()
"""


def test_forked_processes_ignore_signals_except_the_default_action_of_sigterm() -> None:
    """A handler of Python could be called too late, and the end of a pool of processes would wait forever."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert done.stdout == "['IGN', 'DFL', 'IGN', 'IGN']\n"


WORKERS = """
import os, signal, sys, time
import torch
from torch.utils.data import DataLoader
from pipeline import signals

class Numbers:
    def __len__(self): return 6
    def __getitem__(self, index): time.sleep(0.3); return index

if __name__ == "__main__":
    received = []
    with signals.handled(received.append):
        options = {"num_workers": 2, "persistent_workers": sys.argv[1] == "yes"}
        loader = DataLoader(Numbers(), worker_init_fn=signals.keep_working, **options)
        batches = iter(loader)
        found = [int(next(batches))]
        pids = [w.pid for w in batches._workers]
        print("ready", *pids, flush=True)
        found += [int(batch) for batch in batches]
    print(found, received, flush=True)
"""


@pytest.mark.parametrize(("number", "persistent"), [*zip(signals.STOPPING, ["yes", "no", "yes", "no"], strict=True)])
def test_data_workers_finish_their_work_after_a_signal_to_the_process_group(
    number: signal.Signals, persistent: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKERS, persistent], stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, f"[0, 1, 2, 3, 4, 5] [{int(number)}]\n", "")


def test_data_workers_end_when_the_main_process_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKERS, "yes"], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()[1:]]
        process.kill()
    end = time.monotonic() + 20  # the loader of torch looks every 5 s
    while any(is_running(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(is_running(worker) for worker in workers)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
