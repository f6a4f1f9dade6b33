"""Measure what the stored confidence of a run is worth on real photographs.

    python -m tests.benchmarks.uncertainty --model RUN --data DATASET --other DATASET [--images FOLDER]

RUN was trained on DATASET, which has train and validation. Printed are:

- for the scores of images unlike the training images, the AUROC of the images of the other dataset against the
  validation images of DATASET, and how well each score finds held-out classes, which is what the choice is made on;
- the coverage of the prediction sets, fitted on one half of validation and measured on the other half;
- with --images, the images per second of CPU time of `predict` with the stored confidence and without it, in
  alternating rounds. CPU time does not count what other processes do; set OMP_NUM_THREADS=1.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from pipeline import load
from pipeline.arguments.data import DataArguments
from pipeline.data import sources
from pipeline.evaluation import scoring
from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.fit import fit_uncertainty
from pipeline.evaluation.uncertainty.metrics import METHODS, set_sizes
from pipeline.evaluation.uncertainty.out_of_distribution import (
    LabeledFeatures,
    choose_normalization,
    estimate,
    held_out_auroc,
)
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.models.prediction import find_images

NEIGHBORS = 10
SEEDS = 20


def scored(classifier: ImageClassifier, dataset: str, split: str) -> tuple[Predictions, NDArray[np.float32]]:
    """Return predictions and features of a split; labels of another dataset say nothing and are not used."""
    rows = sources.load_splits(DataArguments(dataset_name=dataset))[split]
    return scoring.score_with_features(classifier, rows, LoaderOptions(), name=split)


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return feature vectors of length 1."""
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def measure_scores(
    train: LabeledFeatures,
    known: tuple[Predictions, NDArray[np.float32]],
    other: list[tuple[Predictions, NDArray[np.float32]]],
) -> None:
    """Print the AUROC of each score, and what the choice is made on."""
    logits = [known[0].logits, np.concatenate([each.logits for each, _ in other])]
    features = [known[1], np.concatenate([array for _, array in other])]
    neighbors = NearestNeighbors(n_neighbors=NEIGHBORS).fit(unit(train.features))
    plain, normalized = (estimate(train, normalize=normalize) for normalize in (False, True))
    scores = {
        "Mahalanobis++": [normalized.scores(each) for each in features],
        "Mahalanobis": [plain.scores(each) for each in features],
        "MSP": [1 - softmax(each, axis=1).max(axis=1) for each in logits],
        "energy": [-logsumexp(each, axis=1) for each in logits],
        f"kNN (k = {NEIGHBORS})": [neighbors.kneighbors(unit(each))[0][:, -1] for each in features],
    }
    unknown = np.repeat([0, 1], [len(each) for each in features])
    print(f"{len(features[1])} images of the other dataset against {len(features[0])} validation images")
    for name, (inside, outside) in scores.items():
        threshold = np.quantile(inside, 0.95)
        auroc = roc_auc_score(unknown, np.concatenate([inside, outside]))
        print(f"{name:14} AUROC {auroc:.4f}, {(outside > threshold).mean():.1%} found at 5% false alarms")
    validation = LabeledFeatures(known[1], known[0].labels)
    for name, normalize in (("Mahalanobis++", True), ("Mahalanobis", False)):
        folds = held_out_auroc(train, validation, normalize=normalize)
        print(f"{name:14} AUROC of held-out classes {np.mean(folds):.4f} {np.round(folds, 3).tolist()}")
    print(f"chosen: {'Mahalanobis++' if choose_normalization(train, validation) else 'Mahalanobis'}")


def measure_coverage(validation: Predictions, coverage: float) -> None:
    """Print how often the sets contain the true class in the half of validation on which they were not fitted."""
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    images = len(validation.labels)
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(images)
        fitting, testing = (
            Predictions("validation", [str(i) for i in half], validation.labels[half], validation.logits[half])
            for half in (order[: images // 2], order[images // 2 :])
        )
        fitted = fit_uncertainty(fitting, None, coverage=coverage, abstain_precision=0.95)
        for method in METHODS:
            sizes, covered = set_sizes(fitted, testing, method)
            found[method].append((covered.mean(), sizes.mean()))
            if seed == 0:
                low, high = wilson_interval(int(covered.sum()), len(covered))
                print(f"{method.upper()}, seed 0: {covered.mean():.1%} [{100 * low:.1f}, {100 * high:.1f}] covered")
    for method, rows in found.items():
        mean, size = np.mean(rows, axis=0)
        ends = [min(each for each, _ in rows), max(each for each, _ in rows)]
        print(f"{method.upper()}, {SEEDS} seeds: {mean:.1%} [{ends[0]:.1%}, {ends[1]:.1%}], {size:.1f} classes per set")


def measure_speed(classifier: ImageClassifier, folder: Path, rounds: int) -> None:
    """Print the images per second of CPU time of `predict` with and without the stored confidence."""
    named = find_images(folder)
    bare = dataclasses.replace(classifier, uncertainty=None)
    speeds = []
    for _ in range(rounds):
        pair = []
        for each in (classifier, bare):
            start = time.process_time()
            for _ in each.rank_batches(named, LoaderOptions(32), top_k=5, fail=True):
                pass
            pair.append(len(named) / (time.process_time() - start))
        speeds.append(pair)
    ratios = [with_it / without for with_it, without in speeds]
    print(f"{len(named)} images: {np.median(speeds, axis=0).round(1).tolist()} images per second with and without it")
    print(f"{np.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}] times the images per second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--other", required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--coverage", type=float, default=0.9)
    options = parser.parse_args()
    classifier = load(options.model)
    predictions, features = scored(classifier, options.data, "train")
    known = scored(classifier, options.data, "validation")
    other = [scored(classifier, options.other, split) for split in ("train", "validation")]
    measure_scores(LabeledFeatures(features, predictions.labels), known, other)
    measure_coverage(known[0], options.coverage)
    if options.images is not None:
        measure_speed(classifier, options.images, options.rounds)


if __name__ == "__main__":
    main()
