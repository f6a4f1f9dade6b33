"""`export`: a finished run -> ONNX files that are compared with it, and a program that runs them without torch."""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from pipeline import config, distributed, watchdog
from pipeline.arguments.data import DataArguments
from pipeline.arguments.verbs import ExportArguments
from pipeline.config import CommandLine
from pipeline.config.names import EXPORT_FOLDER
from pipeline.data import sources
from pipeline.data.of_run import data_of_run
from pipeline.deployment.files import PROGRAM, metadata_of, publish, with_weights, write_files
from pipeline.deployment.parity import BATCH_SIZES, Outputs, Reference, file_pixels, run_all
from pipeline.deployment.preprocessing import read_settings
from pipeline.deployment.speed import PYTORCH, measure_speed
from pipeline.deployment.standalone import ExportedClassifier
from pipeline.errors import PipelineError
from pipeline.models.classifier import ImageClassifier
from pipeline.runs.files import check_writable, remove_stale_folders
from pipeline.runs.folder import require_finished

ARGUMENTS = (ExportArguments, DataArguments)

CALIBRATION_IMAGES = 128


def export(model: str | Path, *, output: str | Path | None = None, **flags: Any) -> dict[str, Any]:
    """Export a finished run as ONNX, and compare the files with its model on all of validation.

    Args:
        model: Run folder.
        output: New folder for the files. Default: `onnx` in the run folder.
        flags: The flags of `vit-pipeline export --help` by their names, with Python values. Without `dataset_name`,
            validation is that of the run.

    Returns:
        The content of `parity.json`: `network` and, in `files`, each precision, with accuracy, agreement at both batch
        sizes, the reasons of a refusal, and images per second.

    Raises:
        PipelineError: If the run, its data or the folder cannot be used, the network cannot be exported, or a file is
            less accurate than `max_accuracy_drop` allows (after the other files are written).
    """
    given = {"model": model} | ({} if output is None else {"output": output}) | flags
    return _export(config.checked_call("export", None, given))[0]


def run(line: CommandLine) -> str:
    """Run the verb, and return the comparison as text."""
    parity, folder = _export(line)
    return f"{_table(parity)}\n{folder / PROGRAM} runs the files with onnxruntime, numpy and Pillow only"


def _export(line: CommandLine) -> tuple[dict[str, Any], Path]:
    """Return the content of `parity.json` and the folder."""
    if distributed.world_size() > 1:
        raise PipelineError("export runs in one process: start it without `accelerate launch`")
    args, data_args = config.parse(line, ARGUMENTS)
    with watchdog.must_progress(data_args.dataloader_timeout):
        return _export_and_compare(args, data_args)


def _export_and_compare(args: ExportArguments, data_args: DataArguments) -> tuple[dict[str, Any], Path]:
    start = time.monotonic()
    model = Path(str(args.model)).expanduser()
    require_finished(model)
    folder = Path(args.output).expanduser() if args.output else model / EXPORT_FOLDER
    check_writable(folder)
    classifier = ImageClassifier.load(model)
    settings = read_settings(classifier.processor, name=str(args.model))
    validation, calibration = _load_data(args, data_args, classifier)
    existing = next(part for part in folder.absolute().parents if part.exists())
    remove_stale_folders(existing, ".export-*")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=existing) as place:
        files = write_files(classifier, Path(place), args.precision, metadata_of(classifier, settings), calibration)
        threads = torch.get_num_threads()
        exported = {name: ExportedClassifier(file, threads=threads) for name, file in files.items()}
        reference, outputs = run_all(classifier, exported, validation, settings, progress=sys.stderr.isatty())
        speed = measure_speed(classifier, exported, file_pixels(validation[0]["image"], settings))
        parity: dict[str, Any] = {
            "images": len(validation),
            "threads": threads,
            "calibration_images": 0 if calibration is None else len(calibration),
            "max_accuracy_drop": args.max_accuracy_drop,
            "network": {"accuracy": reference.accuracy, "images_per_second": speed[PYTORCH]},
            "files": {
                name: {"file": file.name, "bytes": sum(path.stat().st_size for path in with_weights(file))}
                | _judge(name, reference, outputs[name], classifier, args.max_accuracy_drop)
                | {"images_per_second": speed[name]}
                for name, file in files.items()
            },
            "seconds": round(time.monotonic() - start, 1),
        }
        del exported  # some systems do not move open files
        if passed := [file for name, file in files.items() if not parity["files"][name]["refused"]]:
            publish(passed, folder, parity)
    _raise_refusals(parity, folder if passed else None)
    return parity, folder


def _load_data(
    args: ExportArguments, data_args: DataArguments, classifier: ImageClassifier
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Return validation and, for int8, class-balanced training images: those of the run, or of the named dataset."""
    named = data_args.dataset_name is not None
    data = data_args if named else dataclasses.replace(data_of_run(str(args.model)), streaming=False)

    def load(split: str, wanted: DataArguments) -> datasets.Dataset:
        names = classifier.class_names
        (rows,) = sources.load_split(wanted, split=split, class_names=names, rename_model=named).values()
        classifier.rename_classes(rows.features["label"].names)
        return rows

    validation = load("validation", data)
    if "int8" not in args.precision:
        return validation, None
    limit = min(CALIBRATION_IMAGES, data.max_train_samples or CALIBRATION_IMAGES)
    return validation, load("train", dataclasses.replace(data, max_train_samples=limit))


def _judge(
    name: str, reference: Reference, outputs: Mapping[int, Outputs], classifier: ImageClassifier, max_drop: float
) -> dict[str, Any]:
    """Return the agreement of a file at each batch size, and the reasons to refuse it."""
    known = classifier.uncertainty
    threshold = known.ood.threshold if known and known.ood else None
    largest = float(np.max(np.abs(reference.logits)))
    found, reasons = {}, list[str]()
    for size in BATCH_SIZES:
        agreement = reference.compare(outputs[size], classifier.class_names, threshold)
        found[f"batch_{size}"] = dataclasses.asdict(agreement)
        refusals = agreement.refusals(max_drop, fp32=name == "fp32", largest=largest)
        reasons += [f"{reason} at batch size {size}" for reason in refusals]
    return {"refused": reasons} | found


def _raise_refusals(parity: Mapping[str, Any], folder: Path | None) -> None:
    """Raise one error for the files that were not written."""
    refused = {name: file["refused"] for name, file in parity["files"].items() if file["refused"]}
    if not refused:
        return
    listed = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in refused.items())
    others = f" ({folder} holds the other files)" if folder else ""
    raise PipelineError(
        f"refused because the exported model differs too much on {parity['images']} validation images{others}: "
        f"{listed}: use another --precision, or raise --max_accuracy_drop"
    )


def _table(parity: Mapping[str, Any]) -> str:
    """Return one line for the network and one for each file."""
    header = ["", "top-1", "same class", "logits differ by", "images/s: batch 1", "batch 32", "MB"]
    network = parity["network"]
    rows = [[PYTORCH, f"{100 * network['accuracy']:.2f}%", "", "", *_rates(network), ""]]
    for name, file in parity["files"].items():
        sizes = [file[f"batch_{size}"] for size in BATCH_SIZES]
        worst = max(each["logit_difference"] for each in sizes)
        accuracy, same = (100 * min(each[key] for each in sizes) for key in ("accuracy", "same"))
        row = [f"ONNX {name}", f"{accuracy:.2f}%", f"{same:.2f}%", f"{worst:.1e}", *_rates(file)]
        rows.append([*row, f"{file['bytes'] / 1e6:.1f}"])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    calibrated = f"; int8 calibrated on {count} training images" if (count := parity["calibration_images"]) else ""
    images = f"{parity['images']} validation images, {parity['threads']} CPU threads{calibrated}"
    return "\n".join([*(line.rstrip() for line in lines), f"({images}; {parity['seconds']:.0f} s)"])


def _rates(entry: Mapping[str, Any]) -> list[str]:
    return [f"{entry['images_per_second'][f'batch_{size}']:.1f}" for size in BATCH_SIZES]
