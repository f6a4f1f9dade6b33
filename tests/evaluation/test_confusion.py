"""Metrics of classes agree with scikit-learn; confused classes become neighbors."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as reference_matrix
from sklearn.metrics import precision_recall_fscore_support

from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.confusion import Pair, class_rows, confused_pairs, confusion_matrix, order_by_confusion


@pytest.mark.parametrize("seed", range(5))
def test_the_matrix_and_the_classes_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 7, 200), rng.integers(0, 6, 200)  # class 6 is never predicted
    matrix = confusion_matrix(labels, predicted, 7)
    assert np.array_equal(matrix, reference_matrix(labels, predicted, labels=range(7)))
    precision, recall, f1, images = precision_recall_fscore_support(labels, predicted, zero_division=np.nan)
    rows = class_rows(matrix)
    assert [row.images for row in rows] == images.tolist()
    assert [row.recall for row in rows] == pytest.approx(recall.tolist())
    assert [row.precision for row in rows[:6]] == pytest.approx(precision[:6].tolist())
    assert rows[6].precision is None
    assert [row.f1 for row in rows] == pytest.approx(np.nan_to_num(f1).tolist())
    for row in rows:
        assert row.interval == wilson_interval(row.correct, row.images)
        wrong = predicted[(labels == row.number) & (predicted != row.number)]
        assert row.mistakes == np.max(np.bincount(wrong))
        assert row.mistaken_for == np.argmax(np.bincount(wrong))


def test_a_class_without_images_has_no_recall() -> None:
    unused, predicted_only, perfect = class_rows(np.array([[0, 0, 0], [0, 0, 0], [0, 1, 3]]))
    assert (unused.recall, unused.precision, unused.f1, unused.interval) == (None, None, None, None)
    assert (predicted_only.recall, predicted_only.precision, predicted_only.f1) == (None, 0.0, 0.0)
    assert (perfect.recall, perfect.mistaken_for, perfect.mistakes) == (0.75, 1, 1)


def test_confused_pairs_count_both_directions_and_name_the_more_frequent_one_first() -> None:
    matrix = np.array([[9, 1, 2], [4, 9, 0], [2, 0, 9]])
    assert confused_pairs(matrix, 5) == [Pair(1, 0, 4, 1), Pair(0, 2, 2, 2)]
    assert confused_pairs(matrix, 1) == [Pair(1, 0, 4, 1)]
    assert confused_pairs(np.eye(3, dtype=np.int64), 5) == []


def test_classes_that_are_confused_become_neighbors() -> None:
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(5), 4))  # five groups of classes, scattered
    matrix = 20 * np.eye(20, dtype=np.int64) + 5 * (groups[:, None] == groups)
    order = order_by_confusion(matrix)
    assert sorted(order) == list(range(20))
    assert np.count_nonzero(np.diff(groups[order])) == 4


def test_without_confusion_the_order_is_kept() -> None:
    assert order_by_confusion(np.diag([3, 0, 2])) == [0, 1, 2]
    assert order_by_confusion(np.array([[1, 2], [0, 3]])) in ([0, 1], [1, 0])
