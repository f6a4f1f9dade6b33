"""An exported run -> the files of a Space of the Hub, which shows the page without vit-pipeline and torch."""

import dataclasses
import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path

import yaml

from pipeline.config.names import EXPORT_FOLDER, exported_file
from pipeline.deployment import page, standalone
from pipeline.deployment.about import describe_exported
from pipeline.deployment.standalone import ExportedClassifier
from pipeline.errors import PipelineError, visible

PROGRAM = "app.py"
_PACKAGES = {"gradio": ">=6.30,<7", "numpy": ">=2,<3", "onnxruntime": ">=1.24,<2", "pillow": ">=12,<13"}
"""What the Space needs. The versions of this machine are pinned; Gradio needs Pillow below 13."""
_EXAMPLES = "examples"


def space_contents(run: Path, repo_id: str) -> dict[str, Path | bytes]:
    """Return the files of a Space by name: each its path, or its content.

    Args:
        run: A finished run that was exported to its default folder.
        repo_id: The repository of the run on the Hub, which the card of the Space names.

    Raises:
        PipelineError: If the run was not exported, or its exported file cannot be used.
    """
    file = exported_file(run / EXPORT_FOLDER)
    if file is None:
        raise PipelineError(f"{run} has no exported model, which the Space runs: run `export --model {run}` first")
    settings = ExportedClassifier(file).settings
    contents: dict[str, Path | bytes] = {
        PROGRAM: Path(page.__file__),
        "predict.py": Path(standalone.__file__),
        "requirements.txt": requirements().encode(),
        "README.md": card(repo_id).encode(),
    }
    with tempfile.TemporaryDirectory() as place:
        about = describe_exported(settings, file, Path(place))
        examples = [(f"{_EXAMPLES}/{Path(path).name}", label) for path, label in about.examples]
        contents |= {f"{_EXAMPLES}/{path.name}": path.read_bytes() for path in sorted(Path(place).iterdir())}
    about = dataclasses.replace(about, title=visible(repo_id.rpartition("/")[2]), examples=examples)
    shown = dataclasses.asdict(about) | {"model": file.name}
    contents[page.SETTINGS] = (json.dumps(shown, indent=2, ensure_ascii=False) + "\n").encode()
    weights = (file, file.with_name(f"{file.name}.data"))  # the second only for large models
    return contents | {each.name: each for each in weights if each.exists()}


def requirements() -> str:
    """Return the text of requirements.txt, with the versions of this machine if the Space can use them."""
    lines = []
    for package, bounds in _PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # another package provides the module, such as onnxruntime-gpu
            version = ""
        major = bounds.rpartition("<")[2]
        fits = version and int(version.partition(".")[0]) < int(major)
        lines.append(f"{package}=={version}" if fits else f"{package}{bounds}")
    return "\n".join(lines) + "\n"


def card(repo_id: str) -> str:
    """Return the README.md of the Space: the settings that the Hub reads, and a line about the model."""
    settings = {
        "title": visible(repo_id.rpartition("/")[2]),
        "sdk": "gradio",
        "sdk_version": importlib.metadata.version("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": PROGRAM,
        "models": [repo_id],
        "tags": ["vision", "image-classification", "vit-pipeline"],
    }
    front = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\nThis page classifies images with [{repo_id}](https://huggingface.co/{repo_id}).\n"
