"""The loss is equal to its closed form; mixup and cutmix mix images and labels by the same proportion."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from pipeline.arguments.images import ImageArguments
from pipeline.arguments.strategy import ObjectiveArguments
from pipeline.training.objective import Objective, class_weights

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]])
LABELS = torch.tensor([0, 2, 1, 1])


def make_objective(
    *,
    counts: Sequence[int] = (4, 4, 4),
    label_smoothing: float = 0.0,
    weights: Literal["none", "balanced"] = "none",
    **images: Any,
) -> Objective:
    arguments = ObjectiveArguments(class_weights=weights)
    return Objective(ImageArguments(**images), arguments, class_counts=counts, label_smoothing=label_smoothing)


def loss_of(objective: Objective, labels: Tensor = LABELS, num_images: int | None = None) -> float:
    return float(objective(SimpleNamespace(logits=LOGITS), labels, num_images))


def log_likelihoods() -> Tensor:
    return LOGITS.log_softmax(1)[torch.arange(4), LABELS]


def test_the_default_is_the_mean_cross_entropy() -> None:
    assert loss_of(make_objective()) == pytest.approx(float(-log_likelihoods().mean()))


def test_losses_of_gradient_accumulation_add_up_to_the_mean_of_the_step() -> None:
    objective = make_objective()
    losses = [
        float(objective(SimpleNamespace(logits=LOGITS[part]), LABELS[part], 4)) for part in (slice(0, 3), slice(3, 4))
    ]
    assert sum(losses) == pytest.approx(loss_of(objective))


def test_label_smoothing_is_spread_evenly_over_all_classes() -> None:
    uniform = float(-LOGITS.log_softmax(1).mean())
    expected = 0.8 * loss_of(make_objective()) + 0.2 * uniform
    assert loss_of(make_objective(label_smoothing=0.2)) == pytest.approx(expected)


def test_balanced_class_weights_give_all_classes_the_same_total_weight() -> None:
    weights = class_weights([10, 30, 0])
    assert weights.tolist() == [2.0, pytest.approx(2 / 3), 0.0]
    assert float(weights @ torch.tensor([10.0, 30.0, 0.0])) == pytest.approx(40)
    objective = make_objective(counts=(1, 3, 8), weights="balanced")
    expected = -(log_likelihoods() * class_weights([1, 3, 8])[LABELS]).mean()
    assert loss_of(objective) == pytest.approx(float(expected))


def test_soft_labels_use_the_cross_entropy_and_not_a_binary_one() -> None:
    probabilities = torch.tensor([[0.5, 0.5, 0.0]] * 4)
    expected = -(LOGITS.log_softmax(1) * probabilities).sum(1).mean()
    assert loss_of(make_objective(), probabilities) == pytest.approx(float(expected))


def make_batch() -> dict[str, Any]:
    """Return three images: all pixels of image i have the value i, and its class is i."""
    return {
        "pixel_values": torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 8).clone(),
        "labels": torch.arange(3),
    }


def test_the_default_does_not_mix_images() -> None:
    assert make_objective().mix(batch := make_batch()) is batch


def test_mixup_mixes_images_and_labels_by_the_same_proportion() -> None:
    torch.manual_seed(0)
    mixed = make_objective(mixup=1.0).mix(make_batch())
    labels = mixed["labels"]
    assert labels.sum(1).tolist() == pytest.approx([1.0] * 3)
    assert 0.01 < labels.max() < 0.99
    expected = labels @ torch.arange(3.0)
    assert torch.allclose(mixed["pixel_values"][:, 0, 0, 0], expected)
    assert mixed["pixel_values"].std(dim=(1, 2, 3)).max() < 1e-6


def test_the_labels_of_cutmix_are_the_area_of_the_pasted_rectangle() -> None:
    torch.manual_seed(1)
    mixed = make_objective(cutmix=1.0).mix(make_batch())
    for number, (image, label) in enumerate(zip(mixed["pixel_values"], mixed["labels"], strict=True)):
        assert set(image.unique().tolist()) <= {float(number), float((number - 1) % 3)}
        assert float((image == number).float().mean()) == pytest.approx(float(label[number]), abs=1e-6)
    assert mixed["labels"].max() < 1


def test_mixup_and_cutmix_together_choose_one_per_batch() -> None:
    torch.manual_seed(0)
    objective = make_objective(mixup=1.0, cutmix=1.0)
    by_mixup = [bool(objective.mix(make_batch())["pixel_values"].std(dim=(1, 2, 3)).max() < 1e-6) for _ in range(40)]
    assert 8 < sum(by_mixup) < 32


def test_certain_and_uniform_predictions_have_the_expected_loss() -> None:
    certain = SimpleNamespace(logits=torch.eye(3) * 100)
    assert float(make_objective()(certain, torch.arange(3))) == pytest.approx(0, abs=1e-6)
    uniform = SimpleNamespace(logits=torch.zeros(2, 3))
    assert float(make_objective()(uniform, torch.tensor([0, 1]))) == pytest.approx(math.log(3))
