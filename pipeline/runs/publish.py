"""What a push uploads: the published files of a run, without a path of this machine."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.errors import raise_problems
from pipeline.runs.files import dataset_folder, path_in_dataset, remove_absolute_path
from pipeline.runs.folder import ADAPTER_FILES, FIGURES, OPTIONAL, PREDICTIONS, PUBLISHED, RECIPE, RunFolder

_HEADER_SIZE = 8  # a safetensors file begins with the size of its header, a little-endian integer of 8 bytes


def published_files(folder: Path) -> list[str]:
    """Return the names of the files of a finished run that a push uploads."""
    optional = (*OPTIONAL, *FIGURES, *ADAPTER_FILES)
    names = (*PUBLISHED, *FIGURES, *ADAPTER_FILES)
    return [name for name in names if name not in optional or (folder / name).exists()]


def published_contents(folder: Path) -> dict[str, Path | bytes]:
    """Return what a push uploads: for each file its path, or its content where that differs from the file.

    Raises:
        PipelineError: If a file names the home folder, or the folder of the run, its data or its model on this machine.
    """
    contents: dict[str, Path | bytes] = {name: folder / name for name in published_files(folder)}
    contents[RECIPE] = public_recipe(folder).encode()
    if _names_paths(folder / PREDICTIONS):  # a run of an earlier version
        contents[PREDICTIONS] = _public_predictions(folder)
    require_public(folder, contents)
    return contents


def require_public(folder: Path, contents: Mapping[str, Path | bytes]) -> None:
    """Check that nothing names a path of this machine.

    Args:
        folder: The run folder.
        contents: Files, or their contents, by the names under which they would be published.

    Raises:
        PipelineError: If a file names the home folder, or the folder of the run, its data or its model on this machine.
    """
    private = _private_paths(folder)
    raise_problems(
        f"{folder / name} contains {path}, a path of this machine, which a push would publish: remove it from the file"
        for name, content in contents.items()
        for path in private
        if re.search(rb"(?<![\w.~-])" + re.escape(path.encode()) + rb"(?![\w.-])", _text_of(content))
    )


def public_recipe(folder: Path) -> str:
    """Return the text of `recipe.yaml` without absolute paths, so that it can be published.

    The file itself keeps absolute paths, so that the run can be repeated on this machine from any folder.
    """
    published = {
        key: remove_absolute_path(value) if isinstance(value, str) else value
        for key, value in RunFolder(folder).arguments.items()
    }
    return yaml.safe_dump(published, sort_keys=False, allow_unicode=True)


def _private_paths(folder: Path) -> list[str]:
    """Return the paths that no published file may contain."""
    settings = [value for value in RunFolder(folder).arguments.values() if isinstance(value, str)]
    paths = {Path.home(), Path.cwd(), folder.absolute().parent, *(Path(s) for s in settings if s.startswith("/"))}
    return sorted(str(path) for path in paths if len(path.parts) > 1)


def _text_of(content: Path | bytes) -> bytes:
    """Return the part of a file that can hold text: the ids of the predictions, the header of weights, or all of it."""
    if isinstance(content, bytes):
        return "\n".join(_ids(content)).encode() if content[:4] == b"PAR1" else content
    if content.suffix == ".parquet":
        return "\n".join(_ids(content)).encode()
    if content.suffix in (".pt", ".pth"):  # tensors of a checkpoint
        return b""
    with content.open("rb") as stream:
        if content.suffix == ".safetensors":
            return stream.read(int.from_bytes(stream.read(_HEADER_SIZE), "little"))
        return stream.read()


def _ids(predictions: Path | bytes) -> list[str]:
    source = predictions if isinstance(predictions, Path) else io.BytesIO(predictions)
    ids: list[str] = pq.ParquetFile(source).read(["id"]).column("id").to_pylist()
    return ids


def _names_paths(predictions: Path) -> bool:
    return any(re.match(r"/|~|[A-Za-z]:[\\/]", name) for name in _ids(predictions))


def _public_predictions(folder: Path) -> bytes:
    """Return `predictions.parquet` with ids that are relative to the dataset."""
    table = pq.ParquetFile(folder / PREDICTIONS).read()
    root = dataset_folder(RunFolder(folder).arguments.get("dataset_name"))
    ids = pa.array([path_in_dataset(name, root) for name in table.column("id").to_pylist()])
    stream = io.BytesIO()
    pq.write_table(table.set_column(table.column_names.index("id"), "id", ids), stream)
    return stream.getvalue()
