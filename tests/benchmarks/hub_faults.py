"""Push a run to a loopback Hub, and download a model, while one kind of request fails, once or for good.

    python -m tests.benchmarks.hub_faults

Prints for each kind of request and fault: exit code, files in the repository, requests that failed, and the error. A
push must survive what fails once, except a refusal; what fails for good must end with exit code 2, one line with a
remedy, and an empty repository or all files. A download must end with the right files or with one line. Waits are
counted and not waited for, and a slow reply takes longer than the client waits.
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

from tests.fakes.hub import SLOW, FakeHub

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
    "truncated": {"spoiled": "truncated"},
    "corrupt": {"spoiled": "corrupt"},
    "slow": {"spoiled": "slow"},
}
NOT_SURVIVED = ("403", "corrupt")  # a corrupt reply can be another valid one
DOWNLOADS = (("GET", "^/api/models/"), ("HEAD", "/resolve/"), ("GET", "/resolve/.*json$"), ("GET", "^/[0-9a-f]{64}$"))
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


def downloads(hub: FakeHub, run: Path, faults: dict[str, dict[str, Any]]) -> Iterator[Outcome]:
    """Yield what a download does for each kind of request and fault, once and for good."""
    from huggingface_hub import constants

    from pipeline.errors import PipelineError
    from pipeline.hub import find_model

    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    for times in (1, OFTEN):
        for method, pattern in DOWNLOADS:
            for fault, how in faults.items():
                shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
                hub.reset()
                for name in names:
                    hub.put("model", "tester/run", name, (run / name).read_bytes())
                hub.fail(method, pattern, times=times, **how)
                code: int | str = 0
                error, files = "", 0
                with short_waits() as waits:
                    try:
                        folder = find_model("tester/run")
                        files = sum((folder / name).read_bytes() == (run / name).read_bytes() for name in names)
                        code = 0 if files == len(names) else "wrong files"
                    except PipelineError as problem:
                        code, error = 2, str(problem)
                    except Exception as problem:  # noqa: BLE001 (a traceback is what is looked for)
                        code, error = type(problem).__name__, str(problem)
                yield Outcome(
                    f"{method} {pattern}", fault, times, code, files, times - len(hub.faults), sum(waits), error
                )


def main() -> None:
    root = Path(tempfile.mkdtemp())
    with client_of_a_fake_hub(root) as hub:
        from pipeline.hub import requests

        requests._READ_SECONDS = SLOW / 2
        run = make_pushable_run(root / "run")
        pushed, downloaded = list(outcomes(hub, run, FAULTS)), list(downloads(hub, run, FAULTS))
    for each in pushed + downloaded:
        print(*each, sep=" | ")
    for name, found in {"pushes": pushed, "downloads": downloaded}.items():
        once = [each for each in found if each.times == 1 and each.fault not in NOT_SURVIVED]
        print(
            f"{len(found)} {name}: {sum(each.code == 0 for each in once)} of {len(once)} single faults survived, ",
            end="",
        )
        print(f"{sum(isinstance(each.code, str) for each in found)} tracebacks")
    print(f"{sum(each.files not in (None, 0, 11) for each in pushed)} half commits")


if __name__ == "__main__":
    main()
