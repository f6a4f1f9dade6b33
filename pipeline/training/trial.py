"""A trial of `--auto`: settings -> which validation images are classified correctly."""

import contextlib
import copy
import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import xxhash

from pipeline import distributed
from pipeline.arguments.settings import NEUTRAL, Settings
from pipeline.data.labels.read import read_integers
from pipeline.data.report import LoadedSplits
from pipeline.errors import PipelineError, Terminated
from pipeline.evaluation.scoring import score
from pipeline.images.depth import set_depth
from pipeline.images.identity import content_key
from pipeline.models.build import build_classifier
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.probing.baseline import fit_training_probe, training_features
from pipeline.probing.features import network_key
from pipeline.probing.linear import install_head
from pipeline.runs.files import read_json, remove_stale_folders, write_json
from pipeline.selection import refit_head
from pipeline.selection.candidates import Correct
from pipeline.selection.improve import improve
from pipeline.training.compatibility import reject_unsupported
from pipeline.training.fine_tune import load_images
from pipeline.training.fit import fit

logger = logging.getLogger(__name__)

_PREFIX = "vit-pipeline-trial-"
_VERSION = 2  # increase it when the same settings lead to another training


def try_settings(settings: Settings, splits: LoadedSplits, epochs: int) -> Correct:
    """Train with these settings for some epochs, and score the best epoch on validation. All ranks must call it.

    The result is cached on disk, so that a repeated command does not train again. Nothing else is kept.

    Args:
        settings: All settings of the training. The ranks are on one machine.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        epochs: Length of the training; the learning rate falls to zero within it.

    Returns:
        Whether each validation image is classified correctly.

    Raises:
        PipelineError: If the network does not support the settings, or the training fails.
        Terminated: If a signal arrived.
    """
    settings = _shortened(settings, epochs)
    with _errors_only():
        classifier = build_classifier(
            settings.model, class_names=splits["train"].features["label"].names, seed=settings.trainer.seed
        )
        set_depth(classifier.processor, splits.grayscale_bits)
        reject_unsupported(classifier, settings)
        file = distributed.broadcast(_cache_file(classifier, splits, settings))
        (cached,) = distributed.broadcast([_read(file, images=len(splits["validation"]))])
        if cached is not None:
            return cached
        correct = _train(classifier, splits, settings)
    distributed.on_main_process(lambda: _write(file, correct))
    return correct


def _shortened(settings: Settings, epochs: int) -> Settings:
    args = copy.copy(settings.trainer)
    args.num_train_epochs, args.max_hours, args.report_to, args.disable_tqdm = epochs, None, [], True
    args.audit, args.push_to_hub = "no", False
    return dataclasses.replace(settings, trainer=args)


def _train(classifier: ImageClassifier, splits: LoadedSplits, settings: Settings) -> Correct:
    """Train as `train` does: from a probe if the settings say so, and with a refitted head."""
    if settings.model.head_init == "probe":
        install_head(classifier, fit_training_probe(training_features(classifier, splits, settings.trainer), splits))
    images = load_images(splits, classifier.processor, settings)
    with _temporary_folder() as folder:
        try:
            fit(classifier, images, folder=folder, settings=settings)
        except Terminated as stop:
            raise Terminated(
                "a trial of --auto was stopped: repeat the command, which keeps finished trials", stop.number
            ) from stop
    if settings.selection.refit_head:
        classifier, _ = improve(classifier, splits, settings, [("--refit_head", refit_head.propose)])
    scored = score(classifier, splits["validation"], LoaderOptions.of(settings.trainer), name="validation")
    correct: Correct = scored.logits.argmax(axis=1) == scored.labels
    return correct


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Give all ranks, which are on one machine, the same empty folder."""
    if distributed.is_main_process():
        remove_stale_folders(Path(tempfile.gettempdir()), f"{_PREFIX}*")
    folder = distributed.broadcast(tempfile.mkdtemp(prefix=_PREFIX) if distributed.is_main_process() else None)
    try:
        yield Path(folder)
    finally:
        if distributed.is_main_process():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Hide the log lines of a trial, of which only the result matters."""
    package = logging.getLogger("pipeline")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


def _cache_file(classifier: ImageClassifier, splits: LoadedSplits, settings: Settings) -> Path:
    """Return the file for the result of a trial: its name is a hash of everything that the result depends on."""
    parts = {
        "version": _VERSION,
        "network": network_key(classifier, precision=settings.trainer.precision),
        "settings": {key: value for key, value in settings.resolved().items() if key not in NEUTRAL},
        "epochs": settings.trainer.num_train_epochs,
        "processes": distributed.world_size(),
        "images": {name: content_key(splits[name]) for name in ("train", "validation")},
        "labels": {name: read_integers(splits[name]).tolist() for name in ("train", "validation")},
    }
    name = xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True, default=str).encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "vit-pipeline" / "trials" / f"{name}.json"


def _read(file: Path, *, images: int) -> Correct | None:
    """Return a cached result, or None if it is missing or damaged."""
    try:
        content = read_json(file)
        wrong = content["wrong"]
        if content["hash"] != _hash(wrong):
            return None
        correct = np.ones(images, dtype=bool)
        correct[wrong] = False
    except (OSError, PipelineError, ValueError, KeyError, TypeError, IndexError):
        return None
    return correct


def _write(file: Path, correct: Correct) -> None:
    """Cache a result. Without it, a repeated command trains again, so a full disk only costs time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        wrong = np.flatnonzero(~correct).tolist()
        write_json(file, {"wrong": wrong, "hash": _hash(wrong)})
    except (OSError, PipelineError) as error:
        logger.warning("the trial cannot be cached: %s", error)


def _hash(wrong: list[int]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(wrong).encode())
