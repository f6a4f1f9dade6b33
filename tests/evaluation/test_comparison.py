"""McNemar's exact test agrees with its definition; classes are matched by name."""

import math

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.comparison import Comparison, compare, require_classes
from pipeline.evaluation.predictions import Predictions


def predictions(classes: list[int], labels: list[int], count: int = 3) -> Predictions:
    logits = np.eye(count, dtype=np.float32)[classes]
    return Predictions("test", [f"{i}.png" for i in range(len(labels))], np.array(labels), logits)


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(0, 0), (1, 0), (5, 1), (2, 9), (4, 4), (30, 12)])
def test_the_p_value_is_that_of_the_sign_test(only_ours: int, only_theirs: int) -> None:
    labels = [0] * (only_ours + only_theirs + 3)
    ours = predictions([0] * only_ours + [1] * only_theirs + [0, 1, 2], labels)
    theirs = predictions([2] * only_ours + [0] * only_theirs + [0, 1, 1], labels)
    found, rows = compare(ours, theirs, ["a", "b", "c"], ["a", "b", "c"])
    discordant, smaller = only_ours + only_theirs, min(only_ours, only_theirs)
    tail = sum(math.comb(discordant, k) for k in range(smaller + 1)) / 2**discordant
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert (found.only_model, found.only_against) == (only_ours, only_theirs)
    assert len(rows) == discordant
    assert found.accuracy - found.against_accuracy == pytest.approx((only_ours - only_theirs) / len(labels))


def test_classes_are_matched_by_name() -> None:
    # The other model knows c, x, b, a. It predicts "a", "b", "x" and "c".
    ours = predictions([0, 0, 2, 1], [0, 1, 2, 2])
    theirs = predictions([3, 2, 1, 0], [0, 0, 0, 0], count=4)
    found, rows = compare(ours, theirs, ["a", "b", "c"], ["c", "x", "b", "a"])
    assert (found.accuracy, found.against_accuracy, found.only_model, found.only_against) == (0.5, 0.75, 1, 2)
    assert rows == [["1.png", "b", "a", "b"], ["2.png", "c", "c", "x"], ["3.png", "c", "b", "c"]]


def test_the_model_with_logits_that_are_not_finite_is_named() -> None:
    ours, theirs = predictions([0, 1], [0, 1]), predictions([0, 1], [0, 1])
    theirs.logits[1, 2] = np.nan
    with pytest.raises(PipelineError, match="test split, model of --against: NaN or infinite logits for 1 of 2 images"):
        compare(ours, theirs, ["a", "b", "c"], ["a", "b", "c"])


def test_missing_classes_are_named() -> None:
    require_classes(["b", "a"], ["a", "x", "b"])
    with pytest.raises(PipelineError, match=r"does not have classes of the images: 'c', 'd' \(its classes: 'a'\)"):
        require_classes(["a", "c", "d"], ["a"])


def test_the_comparison_is_two_lines() -> None:
    lines = Comparison(0.91266, 0.9, 12, 5, 0.143463134765625).describe("runs/a", "b/c").splitlines()
    assert lines == [
        "accuracy difference: +1.27 percentage points (only runs/a is correct: 12 images; only b/c is correct: 5)",
        "exact McNemar test: p = 0.143",
    ]
