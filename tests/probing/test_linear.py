"""The linear probe agrees with scikit-learn; classes without images; nearest neighbors; the learning curve."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.models.build import build_classifier
from pipeline.probing.learning_curve import learning_curve
from pipeline.probing.linear import LinearProbe, calibrate, fit_probe, install_head
from pipeline.probing.neighbors import knn_accuracy

CLASSES, WIDTH = 4, 32


def sample(images: int, seed: int, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Noisy features whose scales and offsets differ by column; one column is constant."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    x = np.random.default_rng(0).normal(size=(classes, WIDTH))[labels] + rng.normal(0, 1.5, (images, WIDTH))
    x = x * np.linspace(0.1, 20, WIDTH) + 100
    x[:, 3] = 7
    return x.astype(np.float32), labels


TRAIN_X, TRAIN_Y = sample(120, 1)
VALID_X, VALID_Y = sample(80, 2)


@pytest.fixture(scope="module")
def probe() -> LinearProbe:
    return fit_probe(TRAIN_X, TRAIN_Y, VALID_X, VALID_Y, CLASSES)


def test_the_probe_agrees_with_scikit_learn_on_standardized_features(probe: LinearProbe) -> None:
    own = make_pipeline(StandardScaler(), LogisticRegression(C=probe.chosen["C"], tol=1e-6, max_iter=5000))
    own.fit(TRAIN_X, TRAIN_Y)
    assert (probe.logits(VALID_X).argmax(1) == own.predict(VALID_X)).mean() > 0.98
    shares = torch.from_numpy(probe.logits(VALID_X)).softmax(1).numpy()
    assert np.allclose(shares, own.predict_proba(VALID_X), atol=0.02)
    assert probe.chosen["accuracy"] == (probe.logits(VALID_X).argmax(1) == VALID_Y).mean() > 0.6


def test_the_order_of_the_training_images_does_not_matter(probe: LinearProbe) -> None:
    order = np.random.default_rng(0).permutation(len(TRAIN_Y))
    shuffled = fit_probe(TRAIN_X[order], TRAIN_Y[order], VALID_X, VALID_Y, CLASSES)
    assert np.array_equal(shuffled.weight, probe.weight)
    assert np.array_equal(shuffled.bias, probe.bias)


def test_the_best_c_is_chosen_and_the_smallest_among_equals(probe: LinearProbe) -> None:
    best = max(row["accuracy"] for row in probe.grid)
    assert probe.chosen == next(row for row in probe.grid if row["accuracy"] == best)
    strengths = [row["C"] for row in probe.grid]
    assert strengths == sorted(strengths)
    assert len({row["accuracy"] for row in probe.grid}) > 2


@pytest.mark.parametrize(("strength", "smaller"), [(1e-4, True), (1e4, False)])
def test_calibration_minimizes_the_loss_and_keeps_the_classes(strength: float, smaller: bool) -> None:
    probe = fit_probe(TRAIN_X, TRAIN_Y, VALID_X, VALID_Y, CLASSES, [strength])
    found = calibrate(probe, VALID_X, VALID_Y)
    before, after = probe.logits(VALID_X).astype(np.float64), found.logits(VALID_X).astype(np.float64)
    assert np.array_equal(before.argmax(1), after.argmax(1))
    assert np.allclose(before, after * found.chosen["temperature"], atol=1e-3)
    assert (found.chosen["temperature"] < 1) == smaller

    def loss(logits: np.ndarray) -> float:
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(VALID_Y)))

    best = min(loss(before / temperature) for temperature in np.geomspace(0.05, 20, 400))
    assert loss(after) == pytest.approx(found.chosen["loss"], abs=1e-4)
    assert loss(after) <= best + 1e-4


def test_a_class_without_training_images_is_never_predicted() -> None:
    kept = TRAIN_Y != 2
    part = fit_probe(TRAIN_X[kept], TRAIN_Y[kept], VALID_X, VALID_Y, CLASSES)
    assert part.weight.shape == (CLASSES, WIDTH)
    assert 2 not in part.logits(VALID_X).argmax(1)


def test_two_classes_work_and_one_is_rejected() -> None:
    x, y = sample(60, 1, classes=2)
    two = fit_probe(x, y, *sample(40, 2, classes=2), 2)
    assert two.chosen["accuracy"] > 0.7
    with pytest.raises(PipelineError, match="at least two classes"):
        fit_probe(x[y == 0], y[y == 0], x, y, 2)


def test_an_installed_probe_is_the_head(probe: LinearProbe, tiny_vit: Path) -> None:
    classifier = build_classifier(ModelArguments(str(tiny_vit)), class_names=list("abcd"), seed=0)
    install_head(classifier, probe)
    head = classifier.model.get_submodule("classifier")
    assert np.allclose(head(torch.from_numpy(VALID_X)).detach(), probe.logits(VALID_X), atol=1e-3)


def test_neighbors_are_ranked_by_angle_and_the_smallest_best_k_is_chosen() -> None:
    k, accuracy = knn_accuracy(TRAIN_X, TRAIN_Y, TRAIN_X, TRAIN_Y)
    assert (k, accuracy) == (1, 1.0)
    assert knn_accuracy(3 * TRAIN_X, TRAIN_Y, (TRAIN_X / 5).astype(np.float32), TRAIN_Y) == (1, 1.0)
    few = knn_accuracy(TRAIN_X[:4], TRAIN_Y[:4], VALID_X, VALID_Y)
    assert few[0] == 1


def test_the_learning_curve_ends_with_all_images_and_is_deterministic(probe: LinearProbe) -> None:
    curve = learning_curve(probe, TRAIN_X, TRAIN_Y, VALID_X, VALID_Y, seed=0)
    assert [row["images_per_class"] for row in curve] == [1, 2, 5, 10, 20, 30]
    assert [row["images"] for row in curve] == [4, 8, 20, 40, 80, 120]
    assert curve[-1]["accuracy"] == probe.chosen["accuracy"]
    assert curve[0]["accuracy"] < curve[-1]["accuracy"]
    assert curve == learning_curve(probe, TRAIN_X, TRAIN_Y, VALID_X, VALID_Y, seed=0)
