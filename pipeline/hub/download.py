"""Models and datasets of the Hub as local files, from the cache where they are in it."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download
from huggingface_hub.hf_api import RepoFile

from pipeline.config import names
from pipeline.config.model_files import config_problems
from pipeline.errors import PipelineError, raise_problems
from pipeline.hub.requests import cached_without_network, errors_explained, not_found, persistently
from pipeline.runs.folder import UNCERTAINTY

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

logger = logging.getLogger(__name__)


MODEL_FILES = ("config.json", "*processor_config.json", "model*.safetensors", "model.safetensors.index.json",
               UNCERTAINTY)  # fmt: skip
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Downloaded only if a repository has no safetensors."""


def find_model(name: str, *, revision: str = "main") -> Path:
    """Return the local folder of a model. A Hub model is downloaded unless it is cached.

    Args:
        name: A folder, the name of a shipped base model, or a Hub id.
        revision: Branch, tag or commit of a Hub model.

    Raises:
        PipelineError: If the model does not exist, cannot be downloaded, has no config.json, or states sizes that
            no network has.
    """
    folder = names.local_model(name)
    if folder is None:
        raise_problems(names.model_problems(name))
        folder = _download_model(name, revision)
    if not (folder / "config.json").is_file():
        raise PipelineError(names.missing_config(name))
    raise_problems(config_problems(folder, name))
    return folder


def _download_model(name: str, revision: str) -> Path:
    patterns = list(MODEL_FILES)
    with cached_without_network(name), errors_explained("model", name, revision):
        folder = _download_files(name, revision, patterns)
        if not any(folder.glob("model*.safetensors")):
            folder = _download_files(name, revision, [*patterns, *PICKLED_FILES])
    return folder


def _download_files(name: str, revision: str, patterns: list[str]) -> Path:
    """Return the folder of the downloaded files. Each has the content that the Hub names by a hash.

    The client compares only their lengths. Files whose content differs are downloaded once more.

    Raises:
        PipelineError: If a file still differs.
    """

    def download() -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))

    folder = persistently(download)
    if damaged := _damaged_files(folder):
        logger.warning("%s of %s differs from its hash; downloading it again", damaged[0].name, name)
        for file in damaged:
            file.resolve().unlink()
            file.unlink()
        folder = persistently(download)
        if damaged := _damaged_files(folder):
            raise PipelineError(f"{damaged[0].name} of {name} differs from its hash on the Hub: check the network")
    return folder


def _damaged_files(folder: Path) -> list[Path]:
    """Return the files of the cache whose content does not have the hash that is their name in the cache."""
    return [file for file in sorted(folder.rglob("*")) if file.is_symlink() and not _has_hash(file.resolve())]


def _has_hash(blob: Path) -> bool:
    """Return whether a file of the cache has the content that its name says: a SHA-256, or the SHA-1 of a git blob."""
    if len(blob.name) == 64:
        with blob.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == blob.name
    content = blob.read_bytes()
    return len(blob.name) != 40 or git_hash(content) == blob.name


def git_hash(content: bytes) -> str:
    """Return the hash that git has for a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_equal(content: Path | bytes, remote: RepoFile | None) -> bool:
    """Return whether a file of the Hub has the content: by SHA-256 in large file storage, by the hash of git else."""
    if remote is None:
        return False
    data = content.read_bytes() if isinstance(content, Path) else content
    if remote.lfs is not None:
        return hashlib.sha256(data).hexdigest() == remote.lfs.sha256
    return git_hash(data) == remote.blob_id


def load_hub_dataset(name: str, config: str | None, revision: str) -> "DatasetDict":
    """Load a dataset of parquet (or other plain) files from the Hub, or from the cache if the Hub cannot be reached.

    Args:
        name: Hub id of the dataset.
        config: Configuration of the dataset, or None for its only one.
        revision: Branch, tag or commit.

    Raises:
        PipelineError: If the dataset does not exist, cannot be downloaded, its configuration is missing or unknown, or
            a Parquet file is damaged or unpacks to many times its size.
    """
    from datasets import load_dataset_builder

    from pipeline.hub.parquet import read_safely, refusals_shown

    with _dataset_errors_explained(name, revision):
        builder = persistently(lambda: load_dataset_builder(name, config, revision=revision))
        read_safely(builder)
        with refusals_shown():
            persistently(builder.download_and_prepare)
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

    from pipeline.hub.parquet import read_safely

    with _dataset_errors_explained(name, revision):
        builder = persistently(lambda: load_dataset_builder(name, config, revision=revision))
        read_safely(builder)
        sizes = {split: info.num_examples for split, info in (builder.info.splits or {}).items()}
        return StreamedDataset(builder.as_streaming_dataset(), sizes, f"{name} {builder.config_id} {builder.hash}")


@contextlib.contextmanager
def _dataset_errors_explained(name: str, revision: str) -> Iterator[None]:
    """Convert errors of `datasets` and of the Hub clients into a `PipelineError`."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    try:
        with cached_without_network(name), errors_explained("dataset", name, revision):
            yield
    except DatasetNotFoundError as error:
        raise PipelineError(not_found("dataset", name, revision)) from error
    except DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300].rstrip(".")
        raise PipelineError(
            f"dataset {name} cannot be read ({reason}): download it again, or use other data"
        ) from error
    except (ValueError, RuntimeError) as error:  # for example a missing configuration name, or a loading script
        raise PipelineError(f"dataset {name} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
