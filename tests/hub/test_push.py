"""Pushes to a fake Hub: what fails once is survived, what fails for good ends in one line, hashes are compared.

All of it happens in one subprocess, because the clients read the address of the Hub when they are imported.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.hub_faults import (
    FAULTS,
    OFTEN,
    Outcome,
    client_of_a_fake_hub,
    make_pushable_run,
    outcomes,
    push,
    short_waits,
)

Report = dict[str, Any]
TO = "--hub_model_id=tester/run"


def use_the_client(root: Path, model: Path) -> None:
    """Run in the subprocess and print a report."""
    with client_of_a_fake_hub(root) as hub:
        run = make_pushable_run(root / "run")
        report: Report = {"faults": list(outcomes(hub, run, {name: FAULTS[name] for name in FEW_FAULTS}))}
        hub.reset()
        hub.fail("POST", "/commit/", **FAULTS["429 with Retry-After"])
        with short_waits() as waits:
            report["busy"], report["waited"] = push(run, TO), waits
        hub.reset()
        report["dry run"] = push(run, TO, "--dry_run")
        report["requests of the dry run"] = len(hub.requests)
        report["first"] = push(run, TO)
        report["equal"] = hub.files("model", "tester/run") | {"recipe.yaml": b""} == {
            name: (run / name).read_bytes() if name != "recipe.yaml" else b""
            for name in hub.files("model", "tester/run")
        }
        commits, uploads = len(hub.repos["tester/run"].commits), hub.requests.copy()
        report["again"] = push(run, TO)
        report["commits again"] = len(hub.repos["tester/run"].commits) - commits
        report["uploads again"] = [r for r in hub.requests[len(uploads) :] if r[0] == "PUT" or "/commit/" in r[1]]
        report["branch"] = push(run, TO, "--hub_revision=seed1")
        report["files of the branch"] = len(hub.files("model", "tester/run", "seed1"))
        report["private"] = push(run, TO, "--hub_private_repo")
        report["new private"] = push(run, "--hub_model_id=tester/secret", "--hub_private_repo")
        report["is private"] = hub.repos["tester/secret"].private
        report |= spaces(hub)
        (run / "config.json").write_text((run / "config.json").read_text() + "\n")
        report["pull request"] = push(run, TO, "--create_pr")
        report["branches"] = sorted(hub.repos["tester/run"].branches)
        report["pull request to nothing"] = push(run, "--hub_model_id=tester/none", "--create_pr")
        hub.corrupted = "model.safetensors"
        report["corrupted large file"] = push(run, "--hub_model_id=tester/bad")
        hub.corrupted = "all_results.json"
        report["corrupted small file"] = push(run, "--hub_model_id=tester/worse")
        hub.role = "read"
        report["may read"] = push(run, TO)
        hub.reset()
        report |= download(hub, model)
    report["without network"] = without_network()
    json.dump(report, sys.stdout)


def spaces(hub: Any) -> Report:
    """Push files to Spaces: a new one twice, a public one as private, and one of another program."""
    from pipeline.errors import PipelineError
    from pipeline.hub import push_space

    files: dict[str, Path | bytes] = {"app.py": Path(__file__), "page.json": b"{}", "model.onnx": b"weights"}

    def push(repo_id: str, *, private: bool = False) -> str:
        try:
            return push_space(files, repo_id, program="app.py", mark="page.json", private=private)
        except PipelineError as error:
            return str(error)

    report: Report = {"space": push("tester/page")}
    report["files of the space"] = {name: len(data) for name, data in hub.files("space", "tester/page").items()}
    files["page.json"] = b"{ }"
    report["space again"] = push("tester/page")
    report["space page"] = hub.files("space", "tester/page")["page.json"].decode()
    report["public space"] = push("tester/page", private=True)
    hub.put("space", "tester/game", "app.py", b"print('hello')")
    report["space of others"] = push("tester/game")
    report["app of others"] = hub.files("space", "tester/game")["app.py"].decode()
    return report


def download(hub: Any, model: Path) -> Report:
    from pipeline.errors import PipelineError
    from pipeline.hub import find_model

    for file in model.iterdir():
        hub.put("model", "tester/vit", file.name, file.read_bytes())
    commit = hub.repos["tester/vit"].head
    hub.put("model", "tester/vit", "config.json", b"{}")
    pinned = find_model("tester/vit", revision=commit)
    report: Report = {"pinned": (pinned / "config.json").read_bytes() == (model / "config.json").read_bytes()}
    weights = (pinned / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again = find_model("tester/vit", revision=commit)
    report["mended"] = (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    weights.write_bytes(content)
    hub.fail("GET", r"^/[0-9a-f]{64}$", status=200, page=bytes(content))
    try:
        find_model("tester/vit", revision=commit)
    except PipelineError as error:
        report["corrupt download"] = str(error)
    with short_waits():
        hub.fail("GET", "/api/models/tester/vit", drop=True)
        find_model("tester/vit")
        weights.unlink()
        hub.fail("GET", r"^/[0-9a-f]{64}$", spoiled="truncated")
        again = find_model("tester/vit", revision=commit)
    report["truncated once"] = (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    return report


def without_network() -> Report:
    """Return what is read from the cache, the errors, and the seconds that each took."""
    from pipeline.errors import PipelineError
    from pipeline.hub import check_may_push, find_model, load_hub_dataset, requests

    report: Report = {}
    calls = {
        "cached": lambda: find_model("tester/vit"),
        "model": lambda: find_model("tester/other"),
        "dataset": lambda: load_hub_dataset("tester/flowers", None, "main"),
        "push": lambda: check_may_push("tester/run"),
    }
    for name, call in calls.items():
        requests._is_reachable_in.cache_clear()
        start = time.monotonic()
        try:
            call()
            text = ""
        except PipelineError as error:
            text = str(error)
        report[name] = [text, time.monotonic() - start]
    return report


FEW_FAULTS = ("503 with a page", "lost reply", "403")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> Report:
    root = tmp_path_factory.mktemp("hub")
    model = shutil.copytree(tiny_vit, root / "model")
    code = "import sys; from pathlib import Path; from tests.hub.test_push import use_the_client; "
    code += "use_the_client(Path(sys.argv[1]), Path(sys.argv[2]))"
    process = subprocess.run(
        [sys.executable, "-c", code, str(root), str(model)],
        env={k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    found: Report = json.loads(process.stdout.splitlines()[-1])
    return found


def test_a_push_survives_what_fails_once(report: Report) -> None:
    once = [Outcome(*each) for each in report["faults"] if each[2] == 1 and each[1] != "403"]
    assert len(once) == 20
    assert [each for each in once if (each.code, each.files, each.failed, each.error) != (0, 11, 1, "")] == []


def test_the_wait_that_the_hub_asks_for_is_kept(report: Report) -> None:
    assert report["busy"][0] == 0
    assert report["waited"] == [7.0]


def test_what_fails_for_good_ends_in_one_line_without_a_half_commit(report: Report) -> None:
    failed = [Outcome(*each) for each in report["faults"] if each[2] == OFTEN or each[1] == "403"]
    for each in failed:
        if each.code == 0:  # the storage has the file, so it is not uploaded or verified again
            assert each.request in ("lfs/verify", ".", "/commit/")
            assert each.files == 11
            continue
        assert each.code == 2, each
        assert len(each.error.splitlines()) == 1, each
        assert each.files in ((11, 0) if each.request in ("paths-info", "/commit/") else (0, None)), each
        assert "try again later" not in each.error
        assert each.fault != "403" or "(injected fault): run `hf auth login` with another token" in each.error


def test_a_dry_run_lists_files_and_sizes_without_a_request(report: Report) -> None:
    code, out, _ = report["dry run"]
    assert code == 0
    assert out.startswith("would push 11 files (")
    assert "            109  model.safetensors\n" in out
    assert report["requests of the dry run"] == 0


def test_a_second_push_uploads_nothing(report: Report) -> None:
    assert report["first"][0] == report["again"][0] == 0
    assert report["equal"]
    assert (report["commits again"], report["uploads again"]) == (0, [])


def test_a_branch_is_created(report: Report) -> None:
    assert report["branch"][0] == 0
    assert report["files of the branch"] == 11


def test_a_pull_request_is_opened_and_its_address_is_shown(report: Report) -> None:
    code, out, _ = report["pull request"]
    assert code == 0
    assert "/tester/run/discussions/2" in out
    assert report["branches"] == ["main", "refs/pr/2", "seed1"]
    code, _, err = report["pull request to nothing"]
    assert code == 2
    assert "repository tester/none not found on the Hub" in err


def test_private_files_are_not_pushed_to_a_public_repository(report: Report) -> None:
    code, _, err = report["private"]
    assert code == 2
    assert "tester/run is public, and --hub_private_repo was given: make it private" in err
    assert report["new private"][0] == 0
    assert report["is private"]


@pytest.mark.parametrize(
    ("case", "name"), [("corrupted large file", "model.safetensors"), ("corrupted small file", "all_results.json")]
)
def test_a_file_that_differs_on_the_hub_is_found(report: Report, case: str, name: str) -> None:
    code, _, err = report[case]
    assert code == 2
    assert f"'{name}' in tester/" in err
    assert "differ from the files of the run after the push: repeat `push`" in err


def test_a_space_is_created_and_updated_and_one_of_another_program_is_not_overwritten(report: Report) -> None:
    assert report["space"].endswith("/spaces/tester/page")
    sizes = {"app.py": Path(__file__).stat().st_size, "page.json": 2, "model.onnx": 7}
    assert report["files of the space"] == sizes
    assert report["space again"] == report["space"]
    assert report["space page"] == "{ }"
    assert (
        "the Space tester/page is public, and --hub_private_repo was given: make it private" in report["public space"]
    )
    assert (
        "the Space tester/game exists, and `push --space` did not write it: choose another" in report["space of others"]
    )
    assert report["app of others"] == "print('hello')"


def test_a_token_that_may_only_read_is_rejected(report: Report) -> None:
    code, _, err = report["may read"]
    assert code == 2
    assert "your token has no write access: create a token with write access" in err


def test_a_pinned_revision_is_downloaded_and_compared_with_its_hashes(report: Report) -> None:
    assert report["pinned"]
    assert report["mended"]
    assert report["truncated once"]
    expected = "model.safetensors of tester/vit differs from its hash on the Hub: check the network"
    assert report["corrupt download"] == expected


def test_without_network_the_cache_or_an_error_comes_within_five_seconds(report: Report) -> None:
    found = report["without network"]
    assert found["cached"][0] == ""
    assert "model tester/other is not cached and the Hub cannot be reached: check the network" in found["model"][0]
    assert "dataset tester/flowers is not cached and the Hub cannot be reached" in found["dataset"][0]
    assert "the Hub cannot be reached for tester/run" in found["push"][0]
    assert [name for name, (_, seconds) in found.items() if seconds > 5] == []
