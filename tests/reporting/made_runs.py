"""Run folders that are made from random predictions, with all files that the report reads, in a second."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from pipeline.evaluation import scoring
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.evaluation.thumbnails import write_thumbnails
from pipeline.images.depth import FULL_DEPTH
from pipeline.runs.files import write_json
from pipeline.runs.folder import PREDICTIONS, RESULTS, THUMBNAILS, TRAINER_STATE, RunFolder, start
from tests.conftest import noisy_image


def random_predictions(
    split: str, images: int, classes: int, *, ids: Sequence[str] | None = None, skill: float = 4.0, seed: int = 0
) -> Predictions:
    """Return predictions of which some are wrong, more often for classes whose numbers are close."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    distance = np.abs(np.arange(classes) - labels[:, None])
    logits = rng.normal(0, 1.5, (images, classes)) + skill * np.exp(-distance / 1.5)
    names = ids or [f"{split}/{label:03}/{row:05}.jpg" for row, label in enumerate(labels)]
    return Predictions(split, names, labels, logits.astype(np.float32))


def image_rows(count: int) -> datasets.Dataset:
    """Return rows with undecoded images, as the splits of a run have them. A few images are repeated."""
    contents = []
    for seed in range(min(count, 20)):
        stream = io.BytesIO()
        color = tuple(int(each) for each in np.random.default_rng(seed).integers(30, 220, 3))
        noisy_image(color, seed, (120, 90)).save(stream, "JPEG")  # type: ignore[arg-type]
        contents.append(stream.getvalue())
    features = datasets.Features(image=datasets.Image(decode=False), index=datasets.Value("int64"))
    images = [{"bytes": contents[row % len(contents)], "path": None} for row in range(count)]
    return datasets.Dataset.from_dict({"image": images, "index": list(range(count))}, features=features)


def make_run(
    folder: Path,
    predictions: Sequence[Predictions],
    class_names: Sequence[str],
    *,
    thumbnails: bool = True,
    state: bool = True,
    data: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Path:
    """Write a finished run without a model: the files that the report reads.

    Args:
        folder: The run folder.
        predictions: Its predictions.
        class_names: Names of its classes.
        thumbnails: Whether it has thumbnails.
        state: Whether a Trainer trained it.
        data: More entries of `data` in the record.
        results: More metrics.
        recipe: More settings.
    """
    arguments = {
        "model_name_or_path": "google/vit-base-patch16-224-in21k", "dataset_name": "me/photos", "learning_rate": 1e-4,
        "augmentation": "basic", "crop_scale": 0.4, "hflip": 0.5, "seed": 42,
    }  # fmt: skip
    samples = {"train": 1020} | {each.split: len(each.ids) for each in predictions}
    start(
        run := RunFolder(folder),
        command=["train", "--dataset_name", "me/photos"],
        arguments=arguments | recipe,
        data={
            "name": "me/photos", "revision": None, "fingerprint": "0123456789abcdef", "classes": len(class_names),
            "samples": samples, "source": "class folders", "notes": ["ignoring 2 files: 'a.txt', 'b.txt'"],
        } | dict(data or {}),
        machine={"device": "cpu", "precision": "fp32", "processes": 1},
    )  # fmt: skip
    write_predictions(folder / PREDICTIONS, predictions, class_names)
    write_json(folder / RESULTS, dict(results or {}) | scoring.all_metrics(predictions, class_names))
    if state:
        history = [
            entry
            for epoch in range(1, 11)
            for entry in (
                {"epoch": epoch, "step": 32 * epoch, "loss": 4 / epoch, "learning_rate": 1e-4},
                {"epoch": epoch, "step": 32 * epoch, "eval_loss": 3 / epoch + 0.4, "eval_accuracy": 1 - 0.7 / epoch},
            )
        ]
        state_of_trainer = {"epoch": 10, "global_step": 320, "best_global_step": 320, "log_history": history}
        write_json(folder / TRAINER_STATE, state_of_trainer)
    if thumbnails:
        splits = {each.split: image_rows(len(each.ids)) for each in predictions}
        write_thumbnails(folder / THUMBNAILS, predictions, splits, FULL_DEPTH)
    speed = {"images_per_second": 71.25, "mfu": 0.62, "data_wait": 0.01}
    run.update(status="finished", timings={"features": 4.0, "probe": 2.0, "train": 61.5, "score": 9.25}, speed=speed)
    return folder
