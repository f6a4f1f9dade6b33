"""Names of models, datasets, images and files: what they mean, and which are wrong. Nothing is downloaded or imported.

What this module cannot know, such as whether a repository exists on the Hub, is found when the name is used.
"""

import contextlib
import glob
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import constants

from pipeline.config.model_files import config_problems
from pipeline.errors import did_you_mean, list_some

ASSETS = Path(__file__).parents[1] / "assets"
BUILT_IN_DATASETS = ("synthetic-flowers", "synthetic-flowers-pretrain", "oxford-flowers-102")
TABLE_EXTENSIONS = (".csv", ".jsonl", ".parquet")
ERROR_EXTENSIONS = (".csv", ".jsonl")
"""The files that `predict --output` can write."""
RECORD = "run.json"
RACE = "race"
"""Status in `run.json` of a folder that holds a race, and not a run."""
RESULTS = "all_results.json"
EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What `export` needs: the extra `export`."""
EXPORT_FOLDER = "onnx"
"""Of the exported files in a run folder, without `--output`."""
_EXPORTED = ("model-fp32.onnx", "model-fp16.onnx", "model-int8.onnx")
# Trackers -> the packages that provide them. `transformers` checks the other trackers when the settings are read.
_TRACKERS = {
    **{name: (name,) for name in ("wandb", "mlflow", "trackio", "comet_ml", "neptune", "codecarbon", "clearml")},
    **{name: (name,) for name in ("dvclive", "swanlab")},
    "tensorboard": ("tensorboard", "tensorboardX"),
}


def as_path(name: str | Path) -> Path:
    """Return a path with the home folder in place of `~`. In `~x`, where there is no user x, the `~` stays."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (Path.expanduser raises a RuntimeError for such a name)


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form `OWNER/NAME`.

    If a local folder OWNER exists, the name is a mistyped path instead.
    """
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).parent.exists()


def is_shipped(name: str) -> bool:
    """Return whether a name is that of a shipped base model."""
    return (ASSETS / name / "config.json").is_file()


def local_model(name: str) -> Path | None:
    """Return the folder of a shipped base model or of a local model, or None if there is no such folder."""
    if is_shipped(name):
        return ASSETS / name
    folder = as_path(name)
    return folder if folder.is_dir() else None


def model_problems(name: str) -> Iterator[str]:
    """Yield what is wrong with the name of a model: a folder, a shipped base model, or a Hub id."""
    folder = local_model(name)
    if folder is not None and not (folder / "config.json").is_file():
        yield from run_problems(name) if (folder / RECORD).is_file() else [missing_config(name)]
    elif folder is None and not is_hub_id(name):
        shipped = [path.parent.name for path in ASSETS.glob("*/config.json")]
        timm = "" if "/" in name else f" (for a timm model, timm/{name})"
        yield (
            f"there is no model folder {name}{did_you_mean(name, shipped)}: "
            f"pass a local folder, or a Hub id OWNER/NAME{timm}"
        )
    elif folder is None and constants.HF_HUB_OFFLINE and not _is_cached("model", name):
        yield not_cached("model", name)
    elif folder is not None:
        yield from config_problems(folder, name)


def exported_file(name: str | Path) -> Path | None:
    """Return the exported file that a name means: the file, or the most precise one in a folder of `export`."""
    path = as_path(name)
    if path.suffix == ".onnx":
        return path if path.is_file() else None
    return next((path / file for file in _EXPORTED if (path / file).is_file()), None)


def missing_config(name: str) -> str:
    """Return the problem of a model folder without configuration."""
    return f"{name} has no config.json: pass the folder or the Hub id of a transformers model"


def dataset_problems(name: str) -> Iterator[str]:
    """Yield what is wrong with the name of a dataset."""
    if name in BUILT_IN_DATASETS or as_path(name).exists():
        return
    if not is_hub_id(name):
        yield missing_dataset(name)
    elif constants.HF_HUB_OFFLINE and not _is_cached("dataset", name):
        yield not_cached("dataset", name)


def missing_dataset(name: str) -> str:
    """Return the problem of a name that is neither a dataset of this program, nor a path, nor a Hub id."""
    similar = did_you_mean(name, BUILT_IN_DATASETS)
    return f"dataset {name} not found{similar}: pass an existing folder or a Hub id (OWNER/NAME)"


def not_cached(kind: str, name: str) -> str:
    """Return the problem of a Hub model or dataset that cannot be downloaded."""
    return (
        f"{kind} {name} is not cached and the Hub cannot be reached: check the network and HF_HUB_OFFLINE, "
        "or pass a local folder"
    )


def image_problems(names: Sequence[str | Path]) -> Iterator[str]:
    """Yield one line for each word of `predict` or `explain` that matches no file."""
    if not names:
        yield "no images given: pass image files, folders with images, or glob patterns"
    for name in names:
        folder = as_path(name)
        if not any(any(files) for _, _, files in os.walk(folder)) if folder.is_dir() else not matching_files(name):
            yield missing_images(name)


def watch_problems(folder: str, images: Sequence[str | Path]) -> Iterator[str]:
    """Yield what is wrong with the folder of `predict --watch`, and with images next to it."""
    if not as_path(folder).is_dir():
        yield f"--watch {folder} is not a folder: pass an existing folder"
    if images:
        yield f"--watch labels the images of its folder only: remove {list_some([str(name) for name in images])}"


def matching_files(name: str | Path) -> list[Path]:
    """Return the files that a path or a glob pattern names, also broken links and named pipes, which are reported."""
    path = as_path(name)
    if path.is_file():
        return [path]
    matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob rejects "..")
    return [file for file in matches if not file.is_dir()]


def missing_images(name: str | Path) -> str:
    """Return the problem of a word of `predict` or `explain` without an image."""
    return f"no image found at {name}: pass image files, folders with images, or glob patterns"


def file_problems(name: str | None, *, flag: str) -> Iterator[str]:
    """Yield a line if a file that a flag names does not exist."""
    if name is not None and not as_path(name).is_file():
        yield f"{flag} {name} does not exist: pass an existing file"


def table_problems(name: str, *, flag: str, extensions: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the name of a table that `predict` writes."""
    path = as_path(name)
    if path.suffix not in extensions:
        yield f"{flag} {name} has an unknown extension: use {', '.join(extensions)}"
    if path.is_dir():
        yield f"{flag} {name} is a folder: add the name of a file"
    if not path.absolute().parent.is_dir():
        yield f"{flag} {name} is in a folder that does not exist: create {path.parent}"


def folder_problems(name: str) -> Iterator[str]:
    """Yield what is wrong with `--output_dir`, if a part of its path is not a folder."""
    path = as_path(name)
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            yield f"cannot write into {name} ({part} is a file): choose another --output_dir"


def new_folder_problems(name: str, *, flag: str) -> Iterator[str]:
    """Yield what is wrong with an output folder that must be new or empty, and that this user must be able to write."""
    path = as_path(name).absolute()
    existing = next(part for part in (path, *path.parents) if part.exists())
    if not existing.is_dir():
        yield f"cannot write into {name} ({existing} is a file): choose another {flag}"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"cannot write into {name} (permission denied for {existing}): choose another {flag}"
    elif existing == path and any(path.iterdir()):
        yield f"{flag} {name} holds other files: choose a new folder"


def classes_of(model: str) -> list[str] | None:
    """Return the names of the classes of a local model, or None if they cannot be read."""
    folder = local_model(model)
    if folder is None:
        return None
    with contextlib.suppress(OSError, ValueError):  # a damaged file is reported when the model is loaded
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
            return [str(name) for name in content["id2label"].values()]
    return None


def class_problems(name: str, classes: Sequence[str] | None, *, model: str) -> Iterator[str]:
    """Yield a line if a class is unknown to a model. None: the classes are not known yet."""
    if classes is not None and name not in classes:
        similar = did_you_mean(name, classes) or f" (its classes are {list_some(classes)})"
        yield f"{model} has no class {name!r}{similar}: correct --class_name"


def run_problems(name: str) -> Iterator[str]:
    """Yield what is wrong with the name of a run that must be finished."""
    record = Path(name) / RECORD
    if not record.is_file():
        yield f"{name} is not a run folder: pass a folder that `train` wrote"
        return
    with contextlib.suppress(OSError, ValueError):  # a damaged file is reported when it is read
        content = json.loads(record.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("status") == RACE:
            yield is_race(name)
        elif isinstance(content, dict) and content.get("status") != "finished":
            yield f"the run in {name} is not finished: repeat its `train` command"


def is_race(name: str) -> str:
    """Return the problem of a folder that holds a race in place of a run."""
    return f"{name} holds a race, not a run: pass one of the run folders in it"


def evaluation_problems(name: str) -> Iterator[str]:
    """Yield what is wrong with the output folder of `evaluate`, such as a run folder."""
    if (as_path(name) / RESULTS).exists():
        yield f"{name} already holds metrics: choose another --output_dir"


def tracker_problems(names: Sequence[str]) -> Iterator[str]:
    """Yield the trackers that are not installed, of those whose package has the name of the tracker."""
    for name in names:
        if name in _TRACKERS and not any(importlib.util.find_spec(package) for package in _TRACKERS[name]):
            yield f"--report_to {name} is not installed: run `pip install {name}`, or remove it"


def extra_problems(verb: str, packages: Sequence[str]) -> Iterator[str]:
    """Yield a line if a verb needs packages that are not installed."""
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        yield f"{verb} needs {', '.join(missing)}: run `pip install {' '.join(packages)}`"


def _is_cached(kind: str, name: str) -> bool:
    owner, _, repo = name.partition("/")
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    places = [Path(constants.HF_HUB_CACHE) / f"{kind}s--{owner}--{repo}"]
    places += [prepared / f"{owner}___{repo.lower()}", prepared / f"{owner}___{repo}"] if kind == "dataset" else []
    return any(place.is_dir() for place in places)
