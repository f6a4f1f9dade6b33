"""`--hub_strategy checkpoint`: checkpoints of an unfinished run in its repository, to continue it on another machine.

The repository gets the newest and the best checkpoint under their names in the run folder, with `run.json` and
`recipe.yaml`. When the run is finished, they are replaced by its files.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoUrl, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFolder

from pipeline.errors import PipelineError
from pipeline.hub.requests import errors_explained, is_reachable, persistently
from pipeline.runs.checkpoints import checkpoint_folder, listed_files
from pipeline.runs.files import remove_absolute_path
from pipeline.runs.folder import RECIPE, RECORD, write_recipe
from pipeline.runs.publish import public_recipe, require_public

logger = logging.getLogger(__name__)

_PREFIX = "checkpoint-"
Files = Mapping[str, BinaryIO | bytes]


def open_checkpoints(folder: Path, steps: Iterable[int]) -> Files:
    """Open all files of checkpoints, so that they can be pushed also after they were removed.

    Args:
        folder: The run folder.
        steps: The steps of the checkpoints.

    Raises:
        PipelineError: If a file names a path of this machine.
    """
    found = [path for step in steps for path in listed_files(checkpoint_folder(folder, step))]
    contents: dict[str, Path | bytes] = {f"{path.parent.name}/{path.name}": path for path in found}
    contents |= {RECIPE: public_recipe(folder).encode(), RECORD: (folder / RECORD).read_bytes()}
    require_public(folder, contents)
    return {name: each.open("rb") if isinstance(each, Path) else each for name, each in contents.items()}


def push_checkpoints(files: Files, repo_id: str, *, private: bool, revision: str) -> None:
    """Push checkpoints in one commit, which removes all others from the repository.

    Args:
        files: From `open_checkpoints`.
        repo_id: `OWNER/NAME`. The repository is created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch to push to. It is created if it does not exist.

    Raises:
        PipelineError: If the Hub cannot be reached or refuses.
    """
    api = HfApi()
    with errors_explained("repository", repo_id, revision):
        make_repository(api, repo_id, private=private, revision=revision)
        pushed = {name.partition("/")[0] for name in files}
        old = [name for name in checkpoints_in(api, repo_id, revision) if name not in pushed]
        persistently(
            lambda: api.create_commit(
                repo_id,
                [
                    *(CommitOperationAdd(path_in_repo=n, path_or_fileobj=content) for n, content in files.items()),
                    *removal(old),
                ],
                commit_message="Push a checkpoint",
                revision=revision,
            )
        )


def checkpoints_in(api: HfApi, repo_id: str, revision: str) -> list[str]:
    """Return the names of the checkpoints in a repository."""
    found = persistently(lambda: list(api.list_repo_tree(repo_id, revision=revision)))
    return [each.path for each in found if isinstance(each, RepoFolder) and each.path.startswith(_PREFIX)]


def removal(checkpoints: Iterable[str]) -> list[CommitOperationDelete]:
    """Return the operations that remove checkpoints from a repository."""
    return [CommitOperationDelete(f"{name}/", is_folder=True) for name in checkpoints]


def fetch_run(folder: Path, repo_id: str, *, revision: str, arguments: Mapping[str, Any]) -> None:
    """Download an unfinished run with its checkpoints into a new run folder. Do nothing if the repository has none.

    Args:
        folder: The run folder, which does not exist or is empty.
        repo_id: The repository.
        revision: The branch.
        arguments: The resolved settings of this call. The recipe in the repository lacks the folders of paths.

    Raises:
        PipelineError: If the Hub cannot be reached, or the folder cannot be written.
    """
    with errors_explained("repository", repo_id, revision):
        if not is_reachable():
            raise ConnectionError("no connection")
        try:
            if not checkpoints_in(HfApi(), repo_id, revision):
                return
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return
        with _renamed_at_the_end(folder) as partial:
            wanted = [RECIPE, RECORD, f"{_PREFIX}*/*"]
            persistently(
                lambda: snapshot_download(repo_id, revision=revision, allow_patterns=wanted, local_dir=partial)
            )
            recipe = yaml.safe_load((partial / RECIPE).read_text(encoding="utf-8"))
            here = {
                k: v for k, v in arguments.items() if isinstance(v, str) and recipe.get(k) == remove_absolute_path(v)
            }
            write_recipe(partial, recipe | here)
    logger.info("continuing the unfinished run in %s on the Hub", repo_id)


@contextlib.contextmanager
def _renamed_at_the_end(folder: Path) -> Iterator[Path]:
    """Yield a new folder that gets the name of another one, which is missing or empty, when the block succeeds."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # of the client
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_repository(api: HfApi, repo_id: str, *, private: bool, revision: str) -> RepoUrl:
    """Create repository and branch if they do not exist, and return the address of the repository.

    Raises:
        PipelineError: If the repository exists and is public, where a private one was asked for.
    """
    url = persistently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
    if private and not persistently(lambda: api.model_info(url.repo_id)).private:
        raise PipelineError(
            f"{url.repo_id} is public, and --hub_private_repo was given: make it private in its settings on the Hub, "
            "or remove --hub_private_repo"
        )
    if revision != "main" and not revision.startswith("refs/"):
        persistently(lambda: api.create_branch(url.repo_id, branch=revision, exist_ok=True))
    return url
