"""Flip labels of real photographs, and measure how well the audit finds them, beside cleanlab.

    python -m tests.benchmarks.label_errors [--seeds 0 1 2] [--epochs 8] [--data flowers102-64px sign-digits-64px]

The data and the model are those of `photographs`. cleanlab must be installed. A fraction of the
training labels is replaced by other classes at random. Our rankings come from the code of `train`: the out-of-fold
predictions from frozen features, and the mean margins of a fine-tuning with the flipped labels (the Trainer sees
nothing else). cleanlab ranks by self-confidence: once with the probabilities of its tutorials (scikit-learn's
`LogisticRegression` with 5 folds on the same features), and once with our out-of-fold probabilities.

Average precision is the area under the precision-recall curve; a random ranking has the fraction of flipped labels.
Accuracies are those of a linear probe on validation, whose labels are right.
"""

import argparse
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import torch
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict

from pipeline.arguments.data import DataArguments
from pipeline.arguments.settings import Settings
from pipeline.data.corrections import apply_changes
from pipeline.data.labels.read import read_integers
from pipeline.data.sources import load_splits
from pipeline.evaluation.audit.labels import Evidence, find_suspects, mean_suspicion, of_predictions
from pipeline.models.build import build_classifier
from pipeline.models.inference import LoaderOptions
from pipeline.probing.features import extract
from pipeline.probing.linear import fit_probe
from pipeline.probing.out_of_fold import predict_out_of_fold
from pipeline.training.fine_tune import load_images
from pipeline.training.fit import fit
from tests.benchmarks.baselines import silence_libraries
from tests.conftest import SHARED
from tests.training.fitting import settings_of

MODEL = SHARED / "vit-tiny-imagenet-32px"


def flip(labels: NDArray[np.int64], fraction: float, num_classes: int, seed: int) -> NDArray[np.int64]:
    """Return labels of which a fraction is replaced by another class, each class equally often."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(fraction * len(labels)), replace=False)
    flipped = labels.copy()
    flipped[rows] = (labels[rows] + rng.integers(1, num_classes, len(rows))) % num_classes
    return flipped


def training_margins(splits: Mapping[str, datasets.Dataset], settings: Settings) -> Evidence:
    """Fine-tune on the labels of the splits, and return the margins."""
    names = splits["train"].features["label"].names
    classifier = build_classifier(settings.model, class_names=names, seed=settings.trainer.seed)
    with tempfile.TemporaryDirectory() as folder:
        images = load_images(datasets.DatasetDict(splits), classifier.processor, settings)
        found: Evidence = fit(classifier, images, folder=Path(folder), settings=settings)["margins"]
    return found


def measure(data: str, fraction: float, seed: int, epochs: int) -> dict[str, float]:
    """Return the average precision of each ranking, and accuracies before and after dropping suspects."""
    splits = load_splits(DataArguments(dataset_name=str(SHARED / data)))
    names = splits["train"].features["label"].names
    settings = settings_of(
        model_name_or_path=str(MODEL), num_train_epochs=max(epochs, 1), learning_rate=1e-3, layer_decay=0.85,
        per_device_train_batch_size=32, seed=seed, image_cache="none",
    )  # fmt: skip
    classifier = build_classifier(settings.model, class_names=names, seed=seed)
    both = {name: splits[name] for name in ("train", "validation")}
    features = extract(classifier, both, LoaderOptions(), precision="fp32", keep=False)
    x, valid_x = features["train"].head, features["validation"].head
    y, valid_y = read_integers(splits["train"]), read_integers(splits["validation"])
    given = flip(y, fraction, len(names), seed)
    wrong = given != y

    ours = predict_out_of_fold(x, given, len(names), seed=seed)
    out_of_fold = of_predictions(ours, given, "out of fold")
    evidence = {"out of fold": [out_of_fold]}
    if epochs:
        index = read_integers(splits["train"], "index")
        changes = {"train": dict(zip(index[wrong].tolist(), given[wrong].tolist(), strict=True))}
        margins = training_margins(apply_changes(both, changes), settings)
        evidence |= {"margins": [margins], "both": [out_of_fold, margins]}
    scores = {f"ours, {name}": mean_suspicion(each) for name, each in evidence.items()}
    with warnings.catch_warnings(action="ignore"):
        theirs = cross_val_predict(LogisticRegression(max_iter=400), x, given, cv=5, method="predict_proba")
    for name, probabilities in (("its tutorial's probabilities", theirs), ("our probabilities", ours)):
        scores[f"cleanlab, {name}"] = -get_label_quality_scores(given, probabilities, method="self_confidence")
    result = {f"AP {name}": float(average_precision_score(wrong, score)) for name, score in scores.items()}

    suspects = find_suspects(list(evidence.values())[-1]).rows
    kept = {
        "with all labels": np.ones(len(y), dtype=bool),
        "without the suspects": ~np.isin(np.arange(len(y)), suspects),
        "without the flipped labels": ~wrong,
    }
    for name, rows in kept.items():
        probe = fit_probe(x[rows], given[rows], valid_x, valid_y, len(names))
        result[f"accuracy {name}"] = probe.chosen["accuracy"]
    return result | {"suspects": len(suspects), "precision of the suspects": float(wrong[suspects].mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the fine-tuning; 0: no margins")
    parser.add_argument("--data", nargs="+", default=["flowers102-64px", "sign-digits-64px"])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.2])
    options = parser.parse_args()
    silence_libraries()
    print(f"{torch.get_num_threads()} threads; mean [minimum, maximum] of the seeds {options.seeds}")
    for data in options.data:
        for fraction in options.fractions:
            rows = [measure(data, fraction, seed, options.epochs) for seed in options.seeds]
            print(f"\n{data}, {fraction:.0%} of the labels flipped")
            for name in rows[0]:
                values = [row[name] for row in rows]
                print(f"  {name:<45} {np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]", flush=True)


if __name__ == "__main__":
    main()
