"""Slices: the tests are those of SciPy, Holm's correction holds its promise, and a planted weakness is found."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import fisher_exact

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.slices.find import MIN_IMAGES, Slice, find_slices, holm
from pipeline.evaluation.slices.properties import ImageProperties
from tests.reporting.made_runs import random_predictions


def measured(predictions: Predictions, **changes: object) -> Predictions:
    """Return predictions whose images differ in size, shape, format and brightness at random."""
    rng, images = np.random.default_rng(3), len(predictions.ids)
    properties = {
        "width": rng.integers(100, 400, images).astype(np.int32),
        "height": rng.integers(100, 400, images).astype(np.int32),
        "format": rng.choice(["JPEG", "PNG"], images),
        "brightness": rng.random(images).astype(np.float32),
    }
    return dataclasses.replace(predictions, properties=ImageProperties(**properties | changes))  # type: ignore[arg-type]


def by_name(found: list[Slice]) -> dict[str, Slice]:
    return {each.name: each for each in found}


def test_counts_accuracies_and_p_values_are_those_of_the_images() -> None:
    predictions = measured(random_predictions("test", 300, 4, skill=1.5))
    assert predictions.properties is not None
    correct = predictions.logits.argmax(axis=1) == predictions.labels
    found = find_slices(predictions)
    assert {each.kind for each in found} == {"file type", "shorter side", "aspect ratio", "brightness"}
    inside = predictions.properties.format == "PNG"
    png = by_name(found)["PNG"]
    assert (png.images, png.accuracy) == (inside.sum(), correct[inside].mean())
    assert png.accuracy_low < png.accuracy < png.accuracy_high
    assert png.others_accuracy == correct[~inside].mean()
    raw = {}
    for name in ("PNG", "JPEG"):
        inside = predictions.properties.format == name
        table = [[correct[inside].sum(), (~correct[inside]).sum()], [correct[~inside].sum(), (~correct[~inside]).sum()]]
        raw[name] = fisher_exact(table, alternative="less").pvalue
    for name, p_value in raw.items():
        assert p_value <= by_name(found)[name].p_value <= min(1, len(found) * p_value) + 1e-9
    sizes = [each for each in found if each.kind == "shorter side"]
    assert sum(each.images for each in sizes) == 300
    assert max(each.images for each in sizes) - min(each.images for each in sizes) < 15


def test_holm_multiplies_the_smallest_p_value_by_their_number() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


def test_a_weakness_on_dark_images_is_found_and_nothing_else() -> None:
    predictions = measured(random_predictions("test", 600, 4, skill=6.0))
    assert predictions.properties is not None
    dark = predictions.properties.brightness < 0.2
    predictions.logits[dark] = np.random.default_rng(0).normal(size=(dark.sum(), 4))
    worse = [each for each in find_slices(predictions) if each.is_worse]
    assert [each.kind for each in worse] == ["brightness"]
    assert worse[0].name.startswith("0% to")


def test_equally_accurate_slices_are_rarely_called_worse() -> None:
    false_alarms = sum(
        any(each.is_worse for each in find_slices(measured(random_predictions("test", 200, 4, seed=seed, skill=1.5))))
        for seed in range(100)
    )
    assert false_alarms <= 11  # 5 are expected; 12 or more have a probability of 0.4%


def test_folders_of_several_classes_are_slices_and_folders_of_one_class_are_not() -> None:
    folders = ["a/day/{}", "a/night/{}", "b/{}"]
    predictions = random_predictions("test", 240, 4)
    ids = [f"{folders[row // 4 % 3].format(f'class{label}')}/{row}.jpg" for row, label in enumerate(predictions.labels)]
    found = by_name(find_slices(dataclasses.replace(predictions, ids=ids)))
    assert {name: each.images for name, each in found.items()} == {"a": 160, "a/day": 80, "a/night": 80, "b": 80}
    rows = find_slices(dataclasses.replace(predictions, ids=[str(row) for row in range(240)]))
    assert rows == []
    single = dataclasses.replace(predictions, ids=[f"only/{row}.jpg" for row in range(240)])
    assert find_slices(single) == []


def test_small_slices_are_not_tried() -> None:
    predictions = random_predictions("test", 100, 4)
    few = measured(predictions, format=np.array(["JPEG"] * (100 - MIN_IMAGES + 1) + ["PNG"] * (MIN_IMAGES - 1)))
    assert "file type" not in {each.kind for each in find_slices(few)}
    enough = measured(predictions, format=np.array(["JPEG"] * (100 - MIN_IMAGES) + ["PNG"] * MIN_IMAGES))
    assert "file type" in {each.kind for each in find_slices(enough)}
