"""A fake Hugging Face Hub on the loopback interface, for tests that use the real client libraries without network.

It stores models and datasets in memory. It returns status 501 for unknown requests. The client
libraries read HF_ENDPOINT when they are imported, so tests run them in a subprocess with ``hub.env(...)``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

Kind = Literal["model", "dataset", "space"]
Json = dict[str, Any]

SLOW = 0.6  # seconds until a slow reply
LFS_SIZE = 10 * 2**20
LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".npy", ".zip", ".jpg", ".jpeg", ".png"}


class File:
    """A version of a file. With LFS, git stores a pointer, and the storage host has the content."""

    def __init__(self, data: bytes, lfs: bool) -> None:
        self.data, self.size = data, len(data)
        self.sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        blob = pointer.encode() if lfs else data
        self.oid = hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
        info = {"oid": self.sha256, "sha256": self.sha256, "size": self.size, "pointerSize": len(pointer)}
        self.lfs: Json | None = info if lfs else None


@dataclass
class Repo:
    """The versions of a repository by commit id, oldest first. A new repository is empty."""

    private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})

    @property
    def head(self) -> str:
        return self.branches["main"]

    def commit(self, files: dict[str, File], branch: str = "main", parent: str = "") -> str:
        parent = parent or self.branches[branch]
        content = (parent, sorted((path, file.oid) for path, file in files.items()))
        commit = hashlib.sha1(repr(content).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit


Spoiled = Literal["", "truncated", "corrupt", "slow"]


@dataclass(frozen=True)
class Request:
    args: dict[str, str]  # the named groups of the route
    flags: set[str]  # the true parameters of the query
    token: str
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int = 200
    content: Json | list[Json] | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    spoiled: Spoiled = ""


class Fault(NamedTuple):
    method: str
    pattern: str
    reply: Reply | None  # None: the connection is dropped
    late: bool
    spoiled: Spoiled


class HubError(Exception):
    """An error reply. Clients distinguish errors by the error code, not by the status."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.reply = Reply(status, {"error": message}, headers)


class FakeHub:
    """The Hub and its storage host. The storage host is another origin, so clients must not send the token to it."""

    user = "tester"
    token = "hf_fake_token"

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []  # method, path, status: 0 for a dropped connection
        self.leaked_tokens: list[tuple[str, str]] = []  # method and path of requests to the storage host
        self.repos: dict[str, Repo] = {}  # by their path on the Hub
        self.storage: dict[str, bytes] = {}  # by SHA-256
        self.role = "write"  # of the token
        self.corrupted = ""  # the path of a file of which a commit changes the last byte
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._servers = [
            ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self, routes))
            for routes in (HUB_ROUTES, STORAGE_ROUTES)
        ]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> FakeHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def env(self, hf_home: Path) -> dict[str, str]:
        """Return environment variables with which the libraries in a subprocess use this Hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(hf_home),
            "HF_HUB_CACHE": str(hf_home / "hub"),
            "HF_DATASETS_CACHE": str(hf_home / "datasets"),
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # By default, uploads use Xet even if the server does not support it.
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def put(self, kind: Kind, repo_id: str, path: str, data: bytes) -> None:
        """Commit one file. The repository is created if it does not exist."""
        with self._lock:
            repo = self.repos.setdefault(page(kind, repo_id), Repo())
            file = File(data, is_lfs(path, len(data)))
            self.storage[file.sha256] = data
            repo.commit({**repo.commits[repo.head], path: file})

    def files(self, kind: Kind, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        repo = self.repos[page(kind, repo_id)]
        return {path: file.data for path, file in repo.commits[repo.branches[branch]].items()}

    def fail(
        self, method: str, pattern: str, status: int = 503, times: int = 1, code: str = "", drop: bool = False,
        page: bytes = b"", late: bool = False, spoiled: Spoiled = "", **headers: str,
    ) -> None:  # fmt: skip
        """Reject or drop the next requests whose path matches the pattern.

        `code` is an error code, as GatedRepo. `page` is returned as the content, as a proxy does. With `late`, the
        request is carried out before. With `spoiled`, it is carried out, and its reply is spoiled on the way. A header
        is written with `_` for `-`.
        """
        reply = HubError(status, "injected fault", code).reply
        reply = replace(reply, headers=reply.headers | {name.replace("_", "-"): text for name, text in headers.items()})
        reply = replace(reply, content=page) if page else reply
        self.faults += [Fault(method, pattern, None if drop else reply, late or bool(spoiled), spoiled)] * times

    def reset(self) -> None:
        """Forget all repositories, faults and requests."""
        for kept in (self.repos, self.storage, self.faults, self.requests):
            kept.clear()
        self.role, self.corrupted = "write", ""

    def find(self, request: Request) -> tuple[Repo, str, dict[str, File]]:
        """Return the repository, the commit and the files for a request."""
        repo = self.repos.get(request.args["page"])
        if repo is None or (repo.private and not request.token):
            raise HubError(404 if request.token else 401, "Repository not found", "RepoNotFound")
        revision = request.args.get("revision", "main")
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, commit, repo.commits[commit]

    def answer(self, routes: list[Route], method: str, url: str, token: str, body: bytes) -> Reply | None:
        """Record a request and return the reply, or None to drop the connection."""
        path, query = urlsplit(url).path, parse_qsl(urlsplit(url).query)
        request = Request({}, {name for name, value in query if value in ("1", "true", "True")}, token, body)
        with self._lock:
            fault = next((f for f in self.faults if f.method == method and re.search(f.pattern, path)), None)
            if fault:
                self.faults.remove(fault)
            reply = self._reply(routes, method, path, request) if fault is None or fault.late else None
            if fault is not None:
                reply = replace(reply, spoiled=fault.spoiled) if reply and fault.spoiled else fault.reply
            self.requests.append((method, path, reply.status if reply else 0))
            if token and routes is STORAGE_ROUTES:
                self.leaked_tokens.append((method, path))
        return reply

    def _reply(self, routes: list[Route], method: str, path: str, request: Request) -> Reply:
        """Return the reply of the first matching route."""
        try:
            if request.token not in ("", f"Bearer {self.token}"):
                raise HubError(401, "Invalid credentials in Authorization header")
            for route in routes:
                match = re.fullmatch(route.path, path)
                if match and route.method == method.replace("HEAD", "GET"):
                    if route.needs_token and not request.token:
                        raise HubError(401, "Invalid username or password.")
                    args = {name: unquote(value) for name, value in match.groupdict("").items()}
                    return route.handler(self, replace(request, args=args))
            raise HubError(501, f"the fake Hub does not know {method} {path}")
        except HubError as error:
            return error.reply


def page(kind: Kind, repo_id: str) -> str:
    """Return the path of a repository on the Hub, which is unique for models, datasets and Spaces."""
    return repo_id if kind == "model" else f"{kind}s/{repo_id}"


def is_lfs(path: str, size: int) -> bool:
    return size >= LFS_SIZE or (size > 0 and Path(path).suffix in LFS_SUFFIXES)


def listing(files: dict[str, File]) -> dict[str, Json]:
    """Return the files and directories of a tree by path."""
    entries: dict[str, Json] = {}
    for path, file in files.items():
        for parent in map(str, PurePosixPath(path).parents[:-1]):
            entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
        entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
        entries[path] |= {"lfs": file.lfs} if file.lfs else {}
    return entries


def whoami(hub: FakeHub, _: Request) -> Reply:
    token = {"accessToken": {"displayName": "fake", "role": hub.role}}
    return Reply(200, {"type": "user", "name": hub.user, "orgs": [], "auth": token})


def create_repo(hub: FakeHub, request: Request) -> Reply:
    new_repo = json.loads(request.body)
    name = page(new_repo.get("type", "model"), f"{new_repo['organization'] or hub.user}/{new_repo['name']}")
    is_new = name not in hub.repos
    if is_new:
        hub.repos[name] = Repo(private=new_repo.get("visibility") == "private")
    return Reply(201 if is_new else 409, {"url": f"{hub.url}/{name}"})


def repo_info(hub: FakeHub, request: Request) -> Reply:
    repo, commit, files = hub.find(request)
    blobs = {path: {"size": file.size, "blobId": file.oid, "lfs": file.lfs} for path, file in files.items()}
    siblings = [{"rfilename": path, **(blobs[path] if "blobs" in request.flags else {})} for path in files]
    repo_id = request.args["page"].removeprefix("datasets/").removeprefix("spaces/")
    return Reply(200, {"id": repo_id, "sha": commit, "private": repo.private, "tags": [], "siblings": siblings})


def tree(hub: FakeHub, request: Request) -> Reply:
    entries = listing(hub.find(request)[2])
    under = f"{request.args['path']}/".lstrip("/")
    below = {path.removeprefix(under): entry for path, entry in entries.items() if path.startswith(under)}
    if under and not below:
        raise HubError(404, f"{under} does not exist", "EntryNotFound")
    return Reply(200, [below[path] for path in below if "recursive" in request.flags or "/" not in path])


def paths_info(hub: FakeHub, request: Request) -> Reply:
    entries = listing(hub.find(request)[2])
    return Reply(200, [entries[path] for _, path in parse_qsl(request.body.decode()) if path in entries])


def refs(hub: FakeHub, request: Request) -> Reply:
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
        for name, commit in hub.find(request)[0].branches.items()
    ]
    return Reply(200, {"branches": branches, "tags": [], "converts": []})


def add_branch(hub: FakeHub, request: Request) -> Reply:
    repo, commit, _ = hub.find(replace(request, args=request.args | {"revision": "main"}))
    if request.args["revision"] in repo.branches:
        raise HubError(409, "Reference already exists")
    repo.branches[request.args["revision"]] = commit
    return Reply(201)


def check_access(hub: FakeHub, request: Request) -> Reply:
    hub.find(request)
    if "write" in request.args["kind"] and (hub.role == "read" or not request.args["page"].startswith(hub.user)):
        raise HubError(403, "you have no right to write")
    return Reply()


def preupload(hub: FakeHub, request: Request) -> Reply:
    """Return the upload mode and the current id of each file. The client does not upload unchanged files."""
    *_, files = hub.find(request)
    plans: list[Json] = []
    for upload in json.loads(request.body)["files"]:
        path, current = upload["path"], files.get(upload["path"])
        oid = current and (current.sha256 if current.lfs else current.oid)
        mode = "lfs" if is_lfs(path, upload["size"]) else "regular"
        plans.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Reply(200, {"files": plans})


def add_commit(hub: FakeHub, request: Request) -> Reply:
    repo, parent, files = hub.find(request)
    files = dict(files)
    for operation in map(json.loads, request.body.splitlines()):
        match operation:
            case {"key": "header", "value": header}:
                if header.get("parentCommit") not in (None, parent):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            case {"key": "file", "value": {"path": path, "content": content}}:
                files[path] = File(base64.b64decode(content), lfs=False)
            case {"key": "lfsFile", "value": {"path": path, "oid": oid}} if oid in hub.storage:
                files[path] = File(hub.storage[oid], lfs=True)
            case {"key": "deletedFolder", "value": {"path": path}}:
                files = {name: file for name, file in files.items() if not name.startswith(path)}
            case _:
                raise HubError(400, f"unknown operation, or no such LFS object: {operation}")
    if hub.corrupted in files:
        old = files[hub.corrupted]
        files[hub.corrupted] = File(old.data[:-1] + bytes([old.data[-1] ^ 1]), lfs=old.lfs is not None)
    is_pull_request = "create_pr" in request.flags
    branch = f"refs/pr/{len(repo.branches)}" if is_pull_request else request.args["revision"]
    new = repo.commit(files, branch, parent)
    address = f"{hub.url}/{request.args['page']}"
    pull_request = f"{address}/discussions/{branch.rpartition('/')[2]}" if is_pull_request else None
    commit = {"success": True, "commitOid": new, "commitUrl": f"{address}/commit/{new}"}
    return Reply(200, commit | {"pullRequestUrl": pull_request})


def lfs_batch(hub: FakeHub, request: Request) -> Reply:
    hub.find(request)
    objects: list[Json] = json.loads(request.body)["objects"]
    for item in objects:
        if item["oid"] not in hub.storage:  # An object without actions is not uploaded.
            upload, verify = f"{hub.storage_url}/{item['oid']}", f"{hub.url}/lfs/verify"
            item["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
    return Reply(200, {"transfer": "basic", "objects": objects})


def lfs_verify(hub: FakeHub, request: Request) -> Reply:
    item = json.loads(request.body)
    return Reply(200 if len(hub.storage.get(item["oid"], b"")) == item["size"] else 404)


def resolve(hub: FakeHub, request: Request) -> Reply:
    """Return the content of a file, or with LFS a redirect to the storage host."""
    _, commit, files = hub.find(request)
    file = files.get(request.args["path"])
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", commit)
    headers = {"X-Repo-Commit": commit, "ETag": f'"{file.oid}"'}
    if not file.lfs:
        return Reply(200, file.data, headers)
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return Reply(302, b"", {**headers, **linked, "Location": f"{hub.storage_url}/{file.sha256}"})


def store(hub: FakeHub, request: Request) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != request.args["oid"]:
        raise HubError(400, "the content does not match its SHA-256")
    hub.storage[request.args["oid"]] = request.body
    return Reply()


def load(hub: FakeHub, request: Request) -> Reply:
    return Reply(200, hub.storage[request.args["oid"]])


class Route(NamedTuple):
    method: str  # GET matches HEAD too
    path: str
    handler: Callable[[FakeHub, Request], Reply]
    needs_token: bool = False


# Names without a namespace can be requested, but do not exist.
_PAGE = r"(?P<page>(?:(?:datasets|spaces)/)?[^/]+(?:/[^/]+)?)"
_API = rf"/api/(?:models/|(?=datasets/|spaces/)){_PAGE}"
_REVISION = r"(?P<revision>[^/]+)"
_OBJECT = r"/(?P<oid>[0-9a-f]{64})"

HUB_ROUTES = [
    Route("GET", "/api/whoami-v2", whoami, needs_token=True),
    Route("POST", "/api/repos/create", create_repo, needs_token=True),
    Route("POST", "/api/validate-yaml", lambda *_: Reply(200, {"errors": [], "warnings": []})),
    Route("GET", f"{_API}/revision/{_REVISION}", repo_info),
    Route("GET", f"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", tree),
    Route("POST", f"{_API}/paths-info/{_REVISION}", paths_info),
    Route("GET", f"{_API}/refs", refs),
    Route("POST", f"{_API}/branch/{_REVISION}", add_branch, needs_token=True),
    Route("GET", rf"{_API}/auth-check(?P<kind>(?:/write)?)", check_access, needs_token=True),
    Route("GET", _API, repo_info),  # This must follow the routes above: it matches their paths too.
    Route("POST", f"{_API}/preupload/{_REVISION}", preupload, needs_token=True),
    Route("POST", f"{_API}/commit/{_REVISION}", add_commit, needs_token=True),
    Route("POST", rf"/{_PAGE}\.git/info/lfs/objects/batch", lfs_batch, needs_token=True),
    Route("POST", "/lfs/verify", lfs_verify, needs_token=True),
    Route("GET", f"/{_PAGE}/resolve/{_REVISION}/(?P<path>.+)", resolve),
]
STORAGE_ROUTES = [Route("PUT", _OBJECT, store), Route("GET", _OBJECT, load)]


class _Handler(BaseHTTPRequestHandler):
    """A handler for HTTP/1.0: the connection ends with the reply."""

    def __init__(self, hub: FakeHub, routes: list[Route], *args: Any) -> None:
        self.hub, self.routes = hub, routes
        super().__init__(*args)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization", "")
        reply = self.hub.answer(self.routes, self.command, self.path, token, body)
        if reply is None:
            return
        body = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
        middle = len(body) // 2
        if reply.spoiled == "corrupt" and body:
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        elif reply.spoiled == "slow":
            threading.Event().wait(SLOW)  # a test can shorten time.sleep, for the client
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:middle] if reply.spoiled == "truncated" else body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Log nothing, because `FakeHub.requests` has all requests."""
