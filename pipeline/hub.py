"""The Hub: names of models and data sets -> local files; a finished run -> a repository.

Everything that can go wrong on the way there becomes one line that names the repository and the remedy.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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

from pipeline.errors import PipelineError, did_you_mean
from pipeline.runs.folder import RECIPE, public_recipe, published_files, require_finished

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict


logger = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
MODEL_FILES = ("config.json", "*processor_config.json", "model*.safetensors", "model.safetensors.index.json")
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Fetched only where a repository has no safetensors."""
UNAUTHORIZED = 401


def is_hub_id(name: str) -> bool:
    """Whether a name is `OWNER/NAME`; where a folder OWNER is here, a folder was meant, and perhaps mistyped."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).parent.exists()


def find_model(name: str, *, revision: str = "main") -> Path:
    """The local folder of a model: a folder, a shipped base by its name, or a downloaded (or cached) Hub repository.

    Raises:
        PipelineError: If there is no such model, it cannot be reached, or it has no config.json.
    """
    shipped = ASSETS / name
    if (shipped / "config.json").is_file():
        return shipped
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not is_hub_id(name):
            shipped_names = [path.parent.name for path in ASSETS.glob("*/config.json")]
            bare = "" if "/" in name else f", as in timm/{name} for a timm name"
            raise PipelineError(
                f"no model folder {name}{did_you_mean(name, shipped_names)}, and a Hub id is OWNER/NAME{bare}"
            )
        folder = _download_model(name, revision)
    if not (folder / "config.json").is_file():
        raise PipelineError(f"{name} holds no config.json, so it is no model that transformers can load")
    return folder


def _download_model(name: str, revision: str) -> Path:
    patterns = list(MODEL_FILES)
    with _explained("model", name, revision):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("model*.safetensors")):
            patterns += PICKLED_FILES
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    return folder


def load_hub_dataset(name: str, config: str | None, revision: str) -> "DatasetDict":
    """Load a data set of parquet (or other plain) files from the Hub, or from the cache where the Hub is out of reach.

    Raises:
        PipelineError: If there is no such data set, it cannot be reached, or its configuration is missing or unknown.
    """
    import pyarrow.dataset
    from datasets import load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    with _data_set_explained(name, revision):
        builder = load_dataset_builder(name, config, revision=revision)
        if isinstance(builder.config, ParquetConfig):
            # By default Arrow holds all of a file until its end is read: half a gigabyte.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        builder.download_and_prepare()
        splits: DatasetDict = builder.as_dataset()
    return splits


@dataclass(frozen=True)
class StreamedDataset:
    """A data set of which nothing is fetched yet but its description.

    Attributes:
        splits: Their rows, as they come.
        sizes: Their numbers of rows, where the card says them.
        identity: Changes with its files.
    """

    splits: "IterableDatasetDict"
    sizes: dict[str, int]
    identity: str


def stream_hub_dataset(name: str, config: str | None, revision: str) -> StreamedDataset:
    """Begin to read a data set of parquet (or other plain) files from the Hub.

    Raises:
        PipelineError: As `load_hub_dataset`.
    """
    from datasets import load_dataset_builder

    with _data_set_explained(name, revision):
        builder = load_dataset_builder(name, config, revision=revision)
        sizes = {split: info.num_examples for split, info in (builder.info.splits or {}).items()}
        return StreamedDataset(builder.as_streaming_dataset(), sizes, f"{name} {builder.config_id} {builder.hash}")


def check_may_push(repo_id: str) -> None:
    """Ask the Hub who we are, so that a missing token is known before a run and not after it.

    Raises:
        PipelineError: If there is no valid token, or the Hub cannot be reached.
    """
    with _explained("repository", repo_id, "main"):
        HfApi().whoami()


def push_run(folder: Path, repo_id: str, *, private: bool = False, revision: str = "main") -> str:
    """Upload the listed files of a finished run in one commit, and nothing else.

    Args:
        folder: The run folder.
        repo_id: `OWNER/NAME`; created if there is none.
        private: Whether a repository that is made now is private.
        revision: Branch.

    Returns:
        The address of the repository.

    Raises:
        PipelineError: If the run is not finished, there is no valid token, or the Hub cannot be reached.
    """
    require_finished(folder)
    sources: dict[str, Path | bytes] = {name: folder / name for name in published_files(folder)}
    sources[RECIPE] = public_recipe(folder).encode()
    operations = [CommitOperationAdd(path_in_repo=n, path_or_fileobj=source) for n, source in sources.items()]
    api = HfApi()
    with _explained("repository", repo_id, revision):
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(address.repo_id, operations, commit_message="Push a finished run", revision=revision)
    return str(address)


@contextlib.contextmanager
def _data_set_explained(name: str, revision: str) -> Iterator[None]:
    from datasets.exceptions import DatasetNotFoundError

    try:
        with _explained("data set", name, revision):
            yield
    except DatasetNotFoundError as error:
        raise PipelineError(_missing("data set", name, revision)) from error
    except (ValueError, RuntimeError) as error:  # a configuration that must be named, or a loading script
        raise PipelineError(f"the data set {name} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


@contextlib.contextmanager
def _explained(kind: str, name: str, revision: str) -> Iterator[None]:
    """Turn what the Hub clients raise into one line for the user."""
    try:
        yield
    except GatedRepoError as error:
        raise PipelineError(f"the {kind} {name} is gated: accept its terms on the Hub, then `hf auth login`") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise PipelineError(_missing(kind, name, revision)) from error
    except LocalTokenNotFoundError as error:
        raise PipelineError(f"pushing to {name} needs a token: `hf auth login`, or set HF_TOKEN") from error
    except HFValidationError as error:
        raise PipelineError(f"{name!r} is neither a folder here nor a Hub id OWNER/NAME") from error
    except HfHubHTTPError as error:
        if error.response.status_code == UNAUTHORIZED:
            raise PipelineError(
                f"the Hub refused your token for {name}: `hf auth login` with one that may write"
            ) from error
        raise PipelineError(f"the Hub answered {error.response.status_code} for {name}: try again later") from error
    except (LocalEntryNotFoundError, ConnectionError, HTTPError) as error:
        if kind == "repository":
            raise PipelineError(
                f"the Hub cannot be reached for {name}: check the network and HF_HUB_OFFLINE"
            ) from error
        raise PipelineError(
            f"the {kind} {name} is not in the cache and the Hub cannot be reached: check the network and "
            "HF_HUB_OFFLINE, or give a local folder"
        ) from error


def _missing(kind: str, name: str, revision: str) -> str:
    at = "" if revision == "main" else f" with revision {revision}"
    return f"no {kind} {name}{at} on the Hub (if it is private: `hf auth login`), and no such folder here"
