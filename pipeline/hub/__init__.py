"""The Hugging Face Hub: names of models and datasets -> local files; a finished run -> a repository.

A push checks the rights, uploads all files in one commit, and compares the hashes in the repository with the files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, RepoUrl, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from pipeline.errors import PipelineError, list_some
from pipeline.hub.checkpoints import (
    checkpoints_in,
    fetch_run,
    make_repository,
    open_checkpoints,
    push_checkpoints,
    removal,
)
from pipeline.hub.download import (
    StreamedDataset,
    find_model,
    is_equal,
    load_hub_dataset,
    stream_hub_dataset,
)
from pipeline.hub.requests import errors_explained, is_reachable, persistently
from pipeline.hub.space import push_space
from pipeline.runs.folder import require_finished
from pipeline.runs.publish import published_contents

__all__ = [
    "Pushed",
    "StreamedDataset",
    "check_may_push",
    "check_pushed",
    "fetch_run",
    "find_model",
    "load_hub_dataset",
    "missing_right",
    "open_checkpoints",
    "push_checkpoints",
    "push_run",
    "push_space",
    "stream_hub_dataset",
]

_UNKNOWN_REQUEST = (404, 405, 501)
"""What a Hub of an earlier version answers to a request that it does not know."""


class Pushed(NamedTuple):
    """Where a run was pushed to.

    Attributes:
        url: The address of the repository, or of the pull request.
        repo_id: The name of the repository.
        revision: The branch, also that of a pull request.
    """

    url: str
    repo_id: str
    revision: str


def check_may_push(repo_id: str, *, create_pr: bool = False) -> None:
    """Check that the token may write to a repository, so that missing rights are found before training.

    The Hub says whether the token may write at all, to whose repositories, and to this one if it exists.

    Args:
        repo_id: `OWNER/NAME`, or `NAME` in the account of the user.
        create_pr: Whether a pull request is opened, for which the repository must exist.

    Raises:
        PipelineError: If there is no valid token, it has no right to write, or the Hub cannot be reached.
    """
    with errors_explained("repository", repo_id, "main"):
        if get_token() is not None and not is_reachable():
            raise ConnectionError("no connection")
        identity = persistently(HfApi().whoami)
        if problem := missing_right(identity, repo_id, create_pr=create_pr):
            raise PipelineError(f"cannot push to {repo_id}, because {problem}")
        full_name = repo_id if "/" in repo_id else f"{identity['name']}/{repo_id}"
        try:
            persistently(lambda: HfApi().auth_check(full_name, write=not create_pr))
        except HfHubHTTPError as error:
            missing = isinstance(error, RepositoryNotFoundError)
            if create_pr if missing else error.response.status_code not in _UNKNOWN_REQUEST:
                raise  # a push creates the repository, but a pull request does not


def missing_right(identity: Mapping[str, Any], repo_id: str, *, create_pr: bool = False) -> str | None:
    """Return why a token may not write to a repository, with the remedy, or None if nothing speaks against it.

    Args:
        identity: The answer of `HfApi.whoami`.
        repo_id: `OWNER/NAME`, or `NAME` in the account of the user.
        create_pr: Whether a pull request is opened, which needs no right to write into the repository.
    """
    user = identity.get("name")
    owner = repo_id.partition("/")[0] if "/" in repo_id else user
    roles = {organization.get("name"): organization.get("roleInOrg") for organization in identity.get("orgs") or []}
    token = (identity.get("auth") or {}).get("accessToken") or {}
    new_token = "create a token with write access, and run `hf auth login`"
    if token.get("role") == "read":
        return f"your token has no write access: {new_token}"
    if create_pr:
        return None
    if scopes := (token.get("fineGrained") or {}).get("scoped"):
        writable = {scope["entity"].get("name") for scope in scopes if "repo.write" in scope.get("permissions", ())}
        if not writable & {owner, repo_id}:
            return f"your fine-grained token has no write access to {owner}: {new_token}"
    elif identity.get("type") == "user" and owner != user and owner not in roles:
        return f"you are logged in as {user}, who is not a member of {owner}: use --hub_model_id {user}/NAME"
    if roles.get(owner) == "read":
        return f"you may only read in {owner}: use --hub_model_id {user}/NAME"
    return None


def push_run(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str = "main",
    create_pr: bool = False,
    removes_checkpoints: bool = False,
) -> Pushed:
    """Upload the published files of a finished run in one commit. Files that the repository has are not uploaded.

    Args:
        folder: The run folder.
        repo_id: `OWNER/NAME`. The repository is created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch to push to. It is created if it does not exist.
        create_pr: Whether to open a pull request for the branch; the repository must exist.
        removes_checkpoints: Whether checkpoints that were pushed on the way are removed.

    Raises:
        PipelineError: If the run is not finished, a file names a path of this machine, there is no valid token, or the
            Hub cannot be reached.
    """
    require_finished(folder)
    contents = published_contents(folder)
    api = HfApi()
    with errors_explained("repository", repo_id, revision):
        url: RepoUrl | None = None
        if not create_pr:
            url = make_repository(api, repo_id, private=private, revision=revision)
            repo_id = url.repo_id
        old = removal(checkpoints_in(api, repo_id, revision)) if removes_checkpoints else []
        commit = persistently(
            lambda: api.create_commit(
                repo_id,
                # New ones each time, because they store what was uploaded before.
                [*(CommitOperationAdd(path_in_repo=n, path_or_fileobj=c) for n, c in contents.items()), *old],
                commit_message="Push a finished run",
                revision=revision,
                create_pr=create_pr,
            )
        )
    if create_pr and commit.pr_url and commit.pr_revision:
        return Pushed(commit.pr_url, repo_id, commit.pr_revision)
    return Pushed(str(url or repo_id), repo_id, revision)


def check_pushed(folder: Path, pushed: Pushed) -> None:
    """Compare the hashes of the files in the repository with those of the run.

    Raises:
        PipelineError: If a file is missing or differs, or the Hub cannot be reached.
    """
    contents = published_contents(folder)
    api, repo_id = HfApi(), pushed.repo_id
    with errors_explained("repository", repo_id, pushed.revision):
        found = persistently(lambda: api.get_paths_info(repo_id, list(contents), revision=pushed.revision))
    remote = {file.path: file for file in found if isinstance(file, RepoFile)}
    if wrong := [name for name, content in contents.items() if not is_equal(content, remote.get(name))]:
        raise PipelineError(
            f"{list_some(wrong)} in {repo_id} differ from the files of the run after the push: repeat `push`"
        )
