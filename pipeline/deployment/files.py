"""The files of an export: written to a temporary folder, and published if they were accepted."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch

from pipeline.deployment import standalone
from pipeline.deployment.graph import write_graph
from pipeline.deployment.parity import file_pixels
from pipeline.deployment.quantize import quantize
from pipeline.errors import PipelineError
from pipeline.models.classifier import ImageClassifier
from pipeline.runs.files import write_json

logger = logging.getLogger(__name__)

PARITY = "parity.json"
PROGRAM = "predict.py"
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def metadata_of(classifier: ImageClassifier, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each file stores in addition to its graph: everything that `standalone` needs.

    Args:
        classifier: The model.
        settings: Its preprocessing, from `read_settings`.
    """
    known = classifier.uncertainty
    return {
        "format": standalone.FORMAT,
        "class_names": classifier.class_names,
        **settings,
        "temperature": known.temperature if known else None,
        "coverage": known.coverage if known else None,
        "aps_threshold": known.aps_threshold if known else None,
        "abstain_threshold": known.abstain_threshold if known else None,
        "unknown_threshold": known.ood.threshold if known and known.ood else None,
    }


def write_files(
    classifier: ImageClassifier,
    place: Path,
    precisions: Sequence[str],
    metadata: Mapping[str, Any],
    calibration: datasets.Dataset | None,
) -> dict[str, Path]:
    """Write one ONNX file for each precision, and return the paths by precision.

    Args:
        classifier: The model.
        place: The folder.
        precisions: `fp32`, `fp16` or `int8`, which is made from fp32.
        metadata: From `metadata_of`.
        calibration: The images whose activations int8 is scaled by; needed for int8 only.

    Raises:
        PipelineError: If the network cannot be exported.
    """
    files = {name: place / f"model-{name}.onnx" for name in (*_DTYPES, "int8")}
    for name, dtype in _DTYPES.items():
        if name in precisions or (name == "fp32" and "int8" in precisions):
            logger.info("exporting %s", name)
            write_graph(classifier, files[name], dtype=dtype, metadata=dict(metadata) | {"precision": name})
    if calibration is not None:
        logger.info("quantizing with the activations of %d training images", len(calibration))
        pixels = [file_pixels(row, metadata) for row in calibration["image"]]
        quantize(files["fp32"], files["int8"], pixels, metadata=dict(metadata) | {"precision": "int8"})
    return {name: files[name] for name in dict.fromkeys(precisions)}


def with_weights(file: Path) -> list[Path]:
    """Return an ONNX file and, if it has one, the file with its weights."""
    return [path for path in (file, file.with_name(f"{file.name}.data")) if path.exists()]


def publish(files: Iterable[Path], folder: Path, parity: Mapping[str, Any]) -> None:
    """Move files to the folder that the user named, with `parity.json` and `predict.py`.

    Raises:
        PipelineError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            for path in with_weights(file):
                path.replace(folder / path.name)
        shutil.copyfile(standalone.__file__, folder / PROGRAM)
    except OSError as error:
        raise PipelineError(f"cannot write into {folder} ({error.strerror}): choose another --output") from error
    write_json(folder / PARITY, parity)
