"""Files -> a Space of the Hub."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.hf_api import RepoFile

from pipeline.errors import PipelineError, list_some
from pipeline.hub.download import is_equal
from pipeline.hub.requests import errors_explained, persistently


def push_space(contents: Mapping[str, Path | bytes], repo_id: str, *, program: str, mark: str, private: bool) -> str:
    """Upload files to a Space in one commit, compare them with the Space, and return its address.

    Args:
        contents: The path or the content of each file.
        repo_id: `OWNER/NAME`. The Space is created if it does not exist.
        program: The file that a Space runs.
        mark: The file by which a Space that this program wrote is known.
        private: Whether a new Space is private.

    Raises:
        PipelineError: If another Space has this name, the Hub cannot be reached, or a file differs after the push.
    """
    api = HfApi()
    with errors_explained("Space", repo_id, "main"):
        url = persistently(
            lambda: api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        )
        if private and not persistently(lambda: api.space_info(url.repo_id)).private:
            raise PipelineError(
                f"the Space {url.repo_id} is public, and --hub_private_repo was given: make it private in its settings "
                "on the Hub, or remove --hub_private_repo"
            )
        found = _files(api, url.repo_id, [program, mark])
        if program in found and mark not in found:
            raise PipelineError(
                f"the Space {url.repo_id} exists, and `push --space` did not write it: choose another --hub_model_id"
            )
        persistently(
            lambda: api.create_commit(
                url.repo_id,
                [CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in contents.items()],
                commit_message="Push the page of a run",
                repo_type="space",
            )
        )
        remote = _files(api, url.repo_id, list(contents))
    if wrong := [name for name, content in contents.items() if not is_equal(content, remote.get(name))]:
        raise PipelineError(f"{list_some(wrong)} in the Space {url.repo_id} differ after the push: repeat `push`")
    return str(url)


def _files(api: HfApi, repo_id: str, names: list[str]) -> dict[str, RepoFile]:
    found = persistently(lambda: api.get_paths_info(repo_id, names, repo_type="space"))
    return {file.path: file for file in found if isinstance(file, RepoFile)}
