"""The Hugging Face Hub: download models and datasets, and push a finished run.

Errors of the Hub clients become a `PipelineError` of one line that names the repository and the remedy.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline.config import names
from pipeline.errors import PipelineError, raise_problems
from pipeline.runs.folder import UNCERTAINTY, require_finished
from pipeline.runs.publish import published_contents

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict


MODEL_FILES = ("config.json", "*processor_config.json", "model*.safetensors", "model.safetensors.index.json",
               UNCERTAINTY)  # fmt: skip
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Downloaded only if a repository has no safetensors."""
UNAUTHORIZED, FORBIDDEN = 401, 403


def find_model(name: str, *, revision: str = "main") -> Path:
    """Return the local folder of a model. A Hub model is downloaded unless it is cached.

    Args:
        name: A folder, the name of a shipped base model, or a Hub id.
        revision: Branch, tag or commit of a Hub model.

    Raises:
        PipelineError: If the model does not exist, cannot be downloaded, or has no config.json.
    """
    folder = names.local_model(name)
    if folder is None:
        raise_problems(names.model_problems(name))
        folder = _download_model(name, revision)
    if not (folder / "config.json").is_file():
        raise PipelineError(names.missing_config(name))
    return folder


def _download_model(name: str, revision: str) -> Path:
    patterns = list(MODEL_FILES)
    with _errors_explained("model", name, revision):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("model*.safetensors")):
            patterns += PICKLED_FILES
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    return folder


def load_hub_dataset(name: str, config: str | None, revision: str) -> "DatasetDict":
    """Load a dataset of parquet (or other plain) files from the Hub, or from the cache if the Hub cannot be reached.

    Args:
        name: Hub id of the dataset.
        config: Configuration of the dataset, or None for its only one.
        revision: Branch, tag or commit.

    Raises:
        PipelineError: If the dataset does not exist, cannot be downloaded, or its configuration is missing or unknown.
    """
    import pyarrow.dataset
    from datasets import load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    with _dataset_errors_explained(name, revision):
        builder = load_dataset_builder(name, config, revision=revision)
        if isinstance(builder.config, ParquetConfig):
            # By default, Arrow keeps a complete file in memory until its end is read, for example half a gigabyte.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        builder.download_and_prepare()
        splits: DatasetDict = builder.as_dataset()
    return splits


@dataclass(frozen=True)
class StreamedDataset:
    """A dataset whose rows are downloaded while they are read.

    Attributes:
        splits: The splits, in the order of their files.
        sizes: Number of rows of each split, if the dataset card has it.
        identity: A text that changes if the files of the dataset change.
    """

    splits: "IterableDatasetDict"
    sizes: dict[str, int]
    identity: str


def stream_hub_dataset(name: str, config: str | None, revision: str) -> StreamedDataset:
    """Open a dataset of parquet (or other plain) files on the Hub without downloading it.

    Args:
        name: Hub id of the dataset.
        config: Configuration of the dataset, or None for its only one.
        revision: Branch, tag or commit.

    Raises:
        PipelineError: As for `load_hub_dataset`.
    """
    from datasets import load_dataset_builder

    with _dataset_errors_explained(name, revision):
        builder = load_dataset_builder(name, config, revision=revision)
        sizes = {split: info.num_examples for split, info in (builder.info.splits or {}).items()}
        return StreamedDataset(builder.as_streaming_dataset(), sizes, f"{name} {builder.config_id} {builder.hash}")


def check_may_push(repo_id: str) -> None:
    """Check that the token may write to a repository, so that missing rights are found before training.

    Raises:
        PipelineError: If there is no valid token, it has no right to write, or the Hub cannot be reached.
    """
    with _errors_explained("repository", repo_id, "main"):
        identity = HfApi().whoami()
    if problem := missing_right(identity, repo_id):
        raise PipelineError(f"cannot push to {repo_id}, because {problem}")


def missing_right(identity: Mapping[str, Any], repo_id: str) -> str | None:
    """Return why a token may not write to a repository, with the remedy, or None if nothing speaks against it.

    Args:
        identity: The answer of `HfApi.whoami`.
        repo_id: `OWNER/NAME`, or `NAME` in the account of the user.
    """
    user = identity.get("name")
    owner = repo_id.partition("/")[0] if "/" in repo_id else user
    roles = {organization.get("name"): organization.get("roleInOrg") for organization in identity.get("orgs") or []}
    token = (identity.get("auth") or {}).get("accessToken") or {}
    new_token = "create a token with write access, and run `hf auth login`"
    if token.get("role") == "read":
        return f"your token has no write access: {new_token}"
    if scopes := (token.get("fineGrained") or {}).get("scoped"):
        writable = {scope["entity"].get("name") for scope in scopes if "repo.write" in scope.get("permissions", ())}
        if not writable & {owner, repo_id}:
            return f"your fine-grained token has no write access to {owner}: {new_token}"
    elif identity.get("type") == "user" and owner != user and owner not in roles:
        return f"you are logged in as {user}, who is not a member of {owner}: use --hub_model_id {user}/NAME"
    if roles.get(owner) == "read":
        return f"you may only read in {owner}: use --hub_model_id {user}/NAME"
    return None


def push_run(folder: Path, repo_id: str, *, private: bool = False, revision: str = "main") -> str:
    """Upload the published files of a finished run in one commit.

    Args:
        folder: The run folder.
        repo_id: `OWNER/NAME`. The repository is created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch to push to.

    Returns:
        The URL of the repository.

    Raises:
        PipelineError: If the run is not finished, a file names a path of this machine, there is no valid token, or the
            Hub cannot be reached.
    """
    require_finished(folder)
    contents = published_contents(folder)
    operations = [CommitOperationAdd(path_in_repo=n, path_or_fileobj=content) for n, content in contents.items()]
    api = HfApi()
    with _errors_explained("repository", repo_id, revision):
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(url.repo_id, operations, commit_message="Push a finished run", revision=revision)
    return str(url)


@contextlib.contextmanager
def _dataset_errors_explained(name: str, revision: str) -> Iterator[None]:
    """Convert errors of `datasets` and of the Hub clients into a `PipelineError`."""
    from datasets.exceptions import DatasetNotFoundError

    try:
        with _errors_explained("dataset", name, revision):
            yield
    except DatasetNotFoundError as error:
        raise PipelineError(_not_found("dataset", name, revision)) from error
    except (ValueError, RuntimeError) as error:  # for example a missing configuration name, or a loading script
        raise PipelineError(f"dataset {name} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


@contextlib.contextmanager
def _errors_explained(kind: str, name: str, revision: str) -> Iterator[None]:
    """Convert errors of the Hub clients into a `PipelineError` of one line."""
    try:
        yield
    except GatedRepoError as error:
        raise PipelineError(f"{kind} {name} is gated: accept its terms on the Hub and run `hf auth login`") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise PipelineError(_not_found(kind, name, revision)) from error
    except LocalTokenNotFoundError as error:
        raise PipelineError(f"pushing to {name} needs a token: run `hf auth login`, or set HF_TOKEN") from error
    except HFValidationError as error:
        raise PipelineError(f"{name!r} is not a local folder and not a Hub id: pass a folder, or OWNER/NAME") from error
    except HfHubHTTPError as error:
        if error.response.status_code == UNAUTHORIZED:
            raise PipelineError(
                f"the Hub rejected your token for {name}: run `hf auth login` with a token that has write access"
            ) from error
        if error.response.status_code == FORBIDDEN:
            reason = " ".join((error.server_message or "it gave no reason").split())
            raise PipelineError(
                f"the Hub does not allow this for {name} ({reason}): run `hf auth login` with another token"
            ) from error
        raise PipelineError(
            f"the Hub returned status {error.response.status_code} for {name}: try again later"
        ) from error
    except (LocalEntryNotFoundError, ConnectionError, HTTPError) as error:
        if kind == "repository":
            raise PipelineError(
                f"the Hub cannot be reached for {name}: check the network and HF_HUB_OFFLINE"
            ) from error
        raise PipelineError(names.not_cached(kind, name)) from error


def _not_found(kind: str, name: str, revision: str) -> str:
    at = "" if revision == "main" else f" at revision {revision}"
    local = "" if kind == "repository" else ", and there is no such local folder"
    return f"{kind} {name}{at} not found on the Hub{local}: check the name, or run `hf auth login` if it is private"
