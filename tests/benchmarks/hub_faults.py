"""Push a run to a loopback Hub while one kind of request fails, once or for good.

    python -m tests.benchmarks.hub_faults

Prints for each kind of request and fault: exit code, files in the repository, requests that failed, and the error. A
push must survive what fails once, except a refusal; what fails for good must end with exit code 2, one line with a
remedy, and an empty repository or all files. Waits are counted and not waited for.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

from tests.fakes.hub import FakeHub

REQUESTS = (
    ("GET", "whoami"),
    ("GET", "auth-check"),
    ("POST", "repos/create"),
    ("POST", "validate-yaml"),
    ("POST", "preupload"),
    ("POST", "objects/batch"),
    ("PUT", "."),
    ("POST", "lfs/verify"),
    ("POST", "/commit/"),
    ("POST", "paths-info"),
)
FAULTS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "503": {"status": 503},
    "503 with a page": {"status": 503, "page": b"<html>bad gateway</html>"},
    "429": {"status": 429},
    "429 with Retry-After": {"status": 429, "Retry_After": "7"},
    "drop": {"drop": True},
    "lost reply": {"drop": True, "late": True},
    "403": {"status": 403},
}
OFTEN = 1000


class Outcome(NamedTuple):
    request: str
    fault: str
    times: int
    code: int | str  # the name of the exception for a traceback
    files: int | None  # None: the repository was not created
    failed: int
    waited: float
    error: str


@contextlib.contextmanager
def client_of_a_fake_hub(root: Path) -> Iterator[FakeHub]:
    """Use a fake Hub in this process, whose clients are not imported yet."""
    assert "huggingface_hub" not in sys.modules
    with FakeHub() as hub:
        os.environ |= hub.env(root / "hf")
        yield hub


def make_pushable_run(folder: Path) -> Path:
    """Return a finished run that can be pushed. Its weights are as small as their format allows."""
    from pipeline.reporting import card, report
    from tests.reporting.made_runs import make_run, random_predictions

    predictions = [random_predictions(split, 12, 3) for split in ("validation", "test")]
    make_run(folder, predictions, ["a", "b", "c"])
    (folder / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 16}}))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + bytes(99))
    card.write(folder)
    report.write(folder)
    shutil.rmtree(folder / "figures", ignore_errors=True)  # they would double the requests
    return folder


def push(run: Path, *flags: str) -> tuple[int | str, str, str]:
    """Return the exit code (or the name of an exception), the output and the errors of a push."""
    from pipeline import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | str = cli.main(["push", f"--model={run}", *flags])
        except Exception as error:  # noqa: BLE001 (a traceback is what is looked for)
            code = type(error).__name__
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def short_waits() -> Iterator[list[float]]:
    """Count the waits between repeated requests, and wait for a moment only."""
    waits: list[float] = []
    sleep = time.sleep

    def short(seconds: SupportsIndex | float) -> None:
        waits.append(float(seconds))
        sleep(min(float(seconds), 0.01))

    time.sleep = short
    try:
        yield waits
    finally:
        time.sleep = sleep


def outcomes(hub: FakeHub, run: Path, faults: dict[str, dict[str, Any]]) -> Iterator[Outcome]:
    """Yield what a push does for each kind of request and fault, once and for good."""
    for times in (1, OFTEN):
        for method, pattern in REQUESTS:
            for fault, how in faults.items():
                hub.reset()
                hub.fail(method, pattern, times=times, **how)
                with short_waits() as waits:
                    code, _, err = push(run, "--hub_model_id=tester/run")
                files = len(hub.files("model", "tester/run")) if "tester/run" in hub.repos else None
                error = err[err.index("error: ") :].strip() if "error: " in err else ""
                yield Outcome(pattern, fault, times, code, files, times - len(hub.faults), sum(waits), error)


def main() -> None:
    root = Path(tempfile.mkdtemp())
    with client_of_a_fake_hub(root) as hub:
        run = make_pushable_run(root / "run")
        found = list(outcomes(hub, run, FAULTS))
    for each in found:
        print(*each, sep=" | ")
    survived = sum(each.code == 0 for each in found if each.times == 1 and each.fault != "403")
    print(f"{survived} of {sum(e.times == 1 and e.fault != '403' for e in found)} single faults survived")
    print(f"{sum(isinstance(e.code, str) for e in found)} tracebacks, ", end="")
    print(f"{sum(e.files not in (None, 0, 11) for e in found)} half commits in {len(found)} pushes")


if __name__ == "__main__":
    main()
