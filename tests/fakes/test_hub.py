"""The real client libraries with the fake Hub. They run in a subprocess that prints a report as JSON."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.fakes.hub import SLOW, FakeHub

Report = dict[str, Any]

ROOT = Path(__file__).parents[2]
WEIGHTS = bytes(range(256))
UPLOADED = {
    "README.md": b"---\nlicense: mit\n---\n# x\n",
    "sub/config.json": b"{}",
    "model.safetensors": WEIGHTS,
}
SPLITS = {"train": 5, "validation": 3, "test": 2}
CLASSES = ["daisy", "rose", "tulip"]
CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
  - split: test
    path: data/test-*
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': daisy
          '1': rose
          '2': tulip
  splits:
  - name: train
    num_examples: 5
  - name: validation
    num_examples: 3
  - name: test
    num_examples: 2
---
"""


def error_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> list[Any]:
    """Return the status of the error and the names of its classes, or an empty list without an error."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        call(*args, **kwargs)
    except HfHubHTTPError as error:
        return [error.response.status_code, *(kind.__name__ for kind in type(error).__mro__)]
    return []


def use_the_clients() -> None:
    """Run in the subprocess and print the report."""
    from datasets import load_dataset
    from huggingface_hub import HfApi

    api, without_token, wrong_token = HfApi(), HfApi(token=False), HfApi(token="hf_wrong")
    patterns = ["*.md", "sub/*", "*.safetensors"]
    upload: Report = {"repo_id": "tester/up", "folder_path": sys.argv[1], "allow_patterns": patterns}
    change = {"path_or_fileobj": b"x", "path_in_repo": "x.txt"}
    report: Report = {
        "user": api.whoami()["name"],
        "urls": [api.create_repo("up", private=True, exist_ok=True) for _ in range(2)],
        "commits": [api.upload_folder(**upload).oid for _ in range(2)],
        "branch": api.list_repo_refs("tester/up").branches[0].target_commit,
        "paths": [entry.path for entry in api.get_paths_info("tester/up", ["sub", "README.md", "none"])],
        "listed": sorted(api.list_repo_files("tester/up")),
    }
    siblings = api.model_info("tester/up", files_metadata=True).siblings or []
    report["sha256"] = {sibling.rfilename: sibling.lfs.sha256 for sibling in siblings if sibling.lfs}
    snapshot = Path(api.snapshot_download("tester/up"))
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    report["snapshot"] = {path.relative_to(snapshot).as_posix(): path.read_bytes().hex() for path in files}
    data = load_dataset("org/flowers")
    report |= {
        "rows": {split: len(rows) for split, rows in data.items()},
        "classes": data["train"].features["label"].names,
        "labels": list(data["validation"]["label"]),
        "reds": [image.getpixel((0, 0))[0] for image in data["validation"]["image"]],
        "missing repository": error_of(api.snapshot_download, "tester/none"),
        "missing namespace": error_of(api.model_info, "none"),
        "missing revision": error_of(api.model_info, "tester/up", revision="v9"),
        "missing file": error_of(api.hf_hub_download, "tester/up", "none.txt"),
        "private": error_of(without_token.model_info, "tester/up"),
        "no token": error_of(without_token.create_repo, "tester/other"),
        "wrong token": error_of(wrong_token.upload_folder, **upload),
        "stale parent": error_of(api.upload_file, **change, repo_id="tester/up", parent_commit="0" * 40),
        "commit fails": error_of(api.upload_file, **change, repo_id="tester/unlucky"),
    }
    json.dump(report, sys.stdout)


def parquet(rows: int) -> bytes:
    """Return a parquet file with one image per row, in the color (10 * row, 0, 0)."""
    images = []
    for row in range(rows):
        png = io.BytesIO()
        Image.new("RGB", (4, 4), (10 * row, 0, 0)).save(png, "PNG")
        images.append({"bytes": png.getvalue(), "path": f"{row}.png"})
    file = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": [row % len(CLASSES) for row in range(rows)]}), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def report(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder, home = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("home")
    for path, content in {**UPLOADED, "secret.txt": b"not for upload"}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    hub.put("dataset", "org/flowers", "README.md", CARD)
    for split, rows in SPLITS.items():
        hub.put("dataset", "org/flowers", f"data/{split}-00000-of-00001.parquet", parquet(rows))
    hub.put("model", "tester/unlucky", "README.md", b"")
    hub.fail("POST", "unlucky/commit/")
    code = "from tests.fakes.test_hub import use_the_clients; use_the_clients()"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **hub.env(home)}
    command = [sys.executable, "-c", code, str(folder)]
    process = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    printed: Report = json.loads(process.stdout)
    return printed


def test_creating_a_repository_twice_gives_one_repository(hub: FakeHub, report: Report) -> None:
    assert report["user"] == "tester"
    assert report["urls"] == [f"{hub.url}/tester/up"] * 2
    assert [status for _, path, status in hub.requests if path == "/api/repos/create"][:2] == [201, 409]


def test_a_folder_is_uploaded_once_and_downloaded_unchanged(hub: FakeHub, report: Report) -> None:
    first, second = report["commits"]
    assert first == second == report["branch"]
    assert report["listed"] == sorted(UPLOADED)
    assert report["paths"] == ["sub", "README.md"]
    assert report["snapshot"] == {path: content.hex() for path, content in UPLOADED.items()}
    assert hub.files("model", "tester/up") == UPLOADED


def test_large_files_use_the_storage_host_without_the_token(hub: FakeHub, report: Report) -> None:
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert report["sha256"] == {"model.safetensors": sha256}
    assert {("PUT", f"/{sha256}", 200), ("GET", f"/{sha256}", 200)} <= set(hub.requests)
    assert hub.leaked_tokens == []


def test_a_parquet_dataset_loads_with_its_splits_classes_and_images(report: Report) -> None:
    assert report["rows"] == SPLITS
    assert report["classes"] == CLASSES
    assert report["labels"] == [0, 1, 2]
    assert report["reds"] == [0, 10, 20]


@pytest.mark.parametrize(
    ("case", "error", "status"),
    [
        ("missing repository", "RepositoryNotFoundError", 404),
        ("missing namespace", "RepositoryNotFoundError", 404),
        ("missing revision", "RevisionNotFoundError", 404),
        ("missing file", "EntryNotFoundError", 404),
        ("private", "RepositoryNotFoundError", 401),
        ("no token", "HfHubHTTPError", 401),
        ("wrong token", "HfHubHTTPError", 401),
        ("stale parent", "HfHubHTTPError", 412),
        ("commit fails", "HfHubHTTPError", 503),
    ],
)
def test_the_client_distinguishes_errors(report: Report, case: str, error: str, status: int) -> None:
    assert report[case][:1] == [status]
    assert error in report[case]


def send(method: str, url: str, **headers: str) -> int:
    with closing(HTTPConnection(urlsplit(url).netloc)) as connection:
        connection.request(method, urlsplit(url).path, headers=headers)
        return connection.getresponse().status


def test_a_token_sent_to_the_storage_host_is_recorded() -> None:
    with FakeHub() as hub:
        hub.put("model", "tester/m", "model.safetensors", WEIGHTS)
        path = f"/{hashlib.sha256(WEIGHTS).hexdigest()}"
        assert send("GET", hub.storage_url + path, Authorization=f"Bearer {hub.token}") == 200
        assert hub.leaked_tokens == [("GET", path)]


def test_injected_faults_occur_the_given_number_of_times() -> None:
    with FakeHub() as hub:
        hub.put("model", "tester/m", "a.txt", b"a")
        path = "/tester/m/resolve/main/a.txt"
        hub.fail("GET", r"a\.txt$", status=429, times=2)
        assert [send("HEAD", hub.url + path), *(send("GET", hub.url + path) for _ in range(3))] == [
            200,
            429,
            429,
            200,
        ]
        hub.fail("GET", "a.txt", drop=True)
        with pytest.raises(RemoteDisconnected):
            send("GET", hub.url + path)
        assert hub.requests[-1] == ("GET", path, 0)


def test_a_spoiled_reply_is_cut_changed_or_late() -> None:
    with FakeHub() as hub:
        hub.put("model", "tester/m", "a.txt", b"abcd")
        url = f"{hub.url}/tester/m/resolve/main/a.txt"
        hub.fail("GET", "a.txt", spoiled="truncated")
        with urlopen(url) as reply, pytest.raises(IncompleteRead) as cut:
            reply.read()
        assert cut.value.partial == b"ab"
        hub.fail("GET", "a.txt", spoiled="corrupt")
        with urlopen(url) as reply:
            assert reply.read() == b"abbd"
        hub.fail("GET", "a.txt", spoiled="slow")
        start = time.monotonic()
        with urlopen(url) as reply:
            assert reply.read() == b"abcd"
        assert time.monotonic() - start >= SLOW


def test_unknown_requests_and_corrupt_uploads_are_rejected() -> None:
    with FakeHub() as hub:
        assert send("GET", f"{hub.url}/settings") == 501
        assert send("PUT", f"{hub.storage_url}/{'0' * 64}") == 400
