"""A backbone with frozen features: linear probe, nearest neighbors and cost, in a folder that makes it resumable."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline import hub
from pipeline.arguments.settings import Settings
from pipeline.config.backbones import display_name, known_license
from pipeline.config.names import local_model
from pipeline.data.report import LoadedSplits
from pipeline.diagnosis.licenses import license_of
from pipeline.errors import PipelineError
from pipeline.evaluation.scoring import score
from pipeline.images.depth import set_depth
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.probing.baseline import training_features, training_labels
from pipeline.probing.linear import LinearProbe, fit_probe, install_head
from pipeline.probing.neighbors import fit_neighbors
from pipeline.racing.entry import PROBE, Answers, Cost, Entry
from pipeline.racing.measure import measure_prediction, measure_training
from pipeline.runs.files import atomic_write, describe_file, read_json, write_json

logger = logging.getLogger(__name__)

RECORD, ARRAYS, TEST, MODEL = "frozen.json", "frozen.safetensors", "test.safetensors", "model"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, SafetensorError)


def run_frozen(backbone: str, splits: LoadedSplits, settings: Settings, *, folder: Path) -> list[Entry]:
    """Return the entries of a backbone with frozen features, from its folder if they were measured before.

    Args:
        backbone: Name of the model.
        splits: The data of the race.
        settings: Settings of the race; the model in them is not used.
        folder: Folder of the backbone.

    Raises:
        PipelineError: If the model cannot be loaded, has no linear head, or its weights changed after its entries were
            measured.
    """
    if (entries := read_frozen(backbone, folder)) is not None:
        logger.info("%s: the linear probe was measured before", backbone)
        return entries
    start = time.perf_counter()
    record, arrays = _measure(backbone, splits, settings)
    record["seconds"] = round(time.perf_counter() - start, 1)
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / ARRAYS, arrays)
    write_json(folder / RECORD, record)  # written last: with it, the entries are complete
    found = _entries(backbone, folder, record, arrays)
    logger.info(
        "%s: validation accuracy %.2f%% with a linear probe, %.2f%% with %d nearest neighbors; %.0f s",
        backbone, 100 * found[0].accuracy, 100 * found[1].accuracy, record["neighbors"], record["seconds"],
    )  # fmt: skip
    return found


def _measure(backbone: str, splits: LoadedSplits, settings: Settings) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what is written about a backbone: as JSON, and as arrays."""
    classifier = _build(backbone, splits, settings)
    features = training_features(classifier, splits, settings.trainer)
    train, validation = features["train"], features["validation"]
    train_y, valid_y, num_classes = training_labels(splits)
    probe = fit_probe(train.head, train_y, validation.head, valid_y, num_classes)
    neighbors, nearest = fit_neighbors(
        train.class_token_and_patches, train_y, validation.class_token_and_patches, valid_y
    )
    license_name = license_of(hub.find_model(backbone)) or known_license(backbone)
    cost = measure_prediction(classifier)
    rate, memory = measure_training(classifier, splits, settings)
    cost = dataclasses.replace(cost, train_images_per_second=rate, memory_gb=memory)
    arrays: dict[str, NDArray[Any]] = {
        "labels": valid_y.astype(np.int64),
        "logits": probe.logits(validation.head).astype(np.float32),
        "nearest": nearest.astype(np.int64),
        "weight": probe.weight,
        "bias": probe.bias,
    }
    record = {
        "backbone": backbone,
        "license": license_name,
        "weights": _weights(backbone),
        "C": probe.chosen["C"],
        "neighbors": neighbors,
        "cost": dataclasses.asdict(cost),
    }
    return record, arrays


def read_frozen(backbone: str, folder: Path) -> list[Entry] | None:
    """Return the entries that were measured before, or None if they are not complete or not readable.

    Raises:
        PipelineError: If the folder is that of another model, or the weights changed.
    """
    if not (folder / RECORD).is_file():
        return None
    try:
        record, arrays = read_json(folder / RECORD), load_file(folder / ARRAYS)
        entries = _entries(backbone, folder, record, arrays)
        known, weights = record["backbone"], record["weights"]
    except _DAMAGED as error:
        logger.warning("%s is damaged (%s); measuring %s again", folder, str(error).splitlines()[0][:100], backbone)
        return None
    if known != backbone and (weights != _weights(backbone) or not weights):
        raise PipelineError(f"{folder} is that of {known}, not of {backbone}: choose another --output_dir")
    if weights != _weights(backbone):
        raise PipelineError(
            f"the files of {backbone} changed after it was compared: choose another --output_dir, or remove {folder}"
        )
    return entries


def score_probe(entry: Entry, backbone: str, splits: LoadedSplits, settings: Settings, *, folder: Path) -> Entry:
    """Save the network with its linear probe, and return the entry with its predictions on test, if there are images.

    The saved files are read again for the predictions, which are computed in fp32.

    Args:
        entry: The entry of the linear probe.
        backbone: Name of the model.
        splits: The data of the race.
        settings: Settings of the race.
        folder: Folder of the backbone.
    """
    model = folder / MODEL
    if not model.exists():
        arrays = load_file(folder / ARRAYS)
        classifier = _build(backbone, splits, settings)
        install_head(classifier, LinearProbe(arrays["weight"], arrays["bias"], {}, []))
        partial = folder / f".{MODEL}"
        classifier.save(partial)
        partial.rename(model)  # so that a kill leaves no folder that looks complete
    if "test" in splits and not (folder / TEST).is_file():
        options = LoaderOptions.of(settings.trainer)
        found = score(ImageClassifier.load(model), splits["test"], options, name="test")
        _save(folder / TEST, {"labels": found.labels.astype(np.int64), "logits": found.logits})
    test = load_file(folder / TEST) if "test" in splits else None
    answers = None if test is None else Answers.of(test["logits"], test["labels"])
    return dataclasses.replace(entry, folder=model, test=answers)


def _build(backbone: str, splits: LoadedSplits, settings: Settings) -> ImageClassifier:
    model = dataclasses.replace(settings.model, model_name_or_path=backbone)
    names = splits["train"].features["label"].names
    classifier = build_classifier(model, class_names=names, seed=settings.trainer.seed)
    set_depth(classifier.processor, splits.grayscale_bits)
    return classifier


def _entries(backbone: str, folder: Path, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Entry]:
    name, labels, license_name = display_name(backbone), arrays["labels"], record["license"]
    cost = Cost.of(record["cost"])
    model = folder / MODEL
    probe = Answers.of(arrays["logits"], labels)
    return [
        Entry(name, PROBE, probe, cost=cost, license=license_name, folder=model if model.exists() else None),
        Entry(name, f"kNN (k = {record['neighbors']})", Answers(labels, arrays["nearest"]), license=license_name),
    ]


def _weights(backbone: str) -> dict[str, list[int | str]]:
    """Return size and hash of the files of a local model. The files of a Hub model are named by their hash already."""
    folder = local_model(backbone)
    if folder is None:
        return {}
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors", ".bin")]
    return {path.name: describe_file(path) for path in files}


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with atomic_write(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
