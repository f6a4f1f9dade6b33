"""The loss against its closed forms; blends that really blend."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.arguments.images import AugmentationArguments
from pipeline.training.objective import Objective, class_weights

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]])
LABELS = torch.tensor([0, 2, 1, 1])


def objective(*, counts: Sequence[int] = (4, 4, 4), label_smoothing: float = 0.0, **flags: Any) -> Objective:
    return Objective(AugmentationArguments(**flags), class_counts=counts, label_smoothing=label_smoothing)


def loss_of(made: Objective, labels: Tensor = LABELS, images: int | None = None) -> float:
    return float(made(SimpleNamespace(logits=LOGITS), labels, images))


def log_likelihoods() -> Tensor:
    return LOGITS.log_softmax(1)[torch.arange(4), LABELS]


def test_without_flags_it_is_the_mean_cross_entropy() -> None:
    assert loss_of(objective()) == pytest.approx(float(-log_likelihoods().mean()))


def test_micro_batches_of_a_step_add_up_to_its_mean() -> None:
    made = objective()
    parts = [float(made(SimpleNamespace(logits=LOGITS[part]), LABELS[part], 4)) for part in (slice(0, 3), slice(3, 4))]
    assert sum(parts) == pytest.approx(loss_of(made))


def test_smoothing_gives_its_share_to_all_classes_alike() -> None:
    uniform = float(-LOGITS.log_softmax(1).mean())
    expected = 0.8 * loss_of(objective()) + 0.2 * uniform
    assert loss_of(objective(label_smoothing=0.2)) == pytest.approx(expected)


def test_balanced_classes_weigh_alike_whatever_their_size() -> None:
    weights = class_weights([10, 30, 0])
    assert weights.tolist() == [2.0, pytest.approx(2 / 3), 0.0]
    assert float(weights @ torch.tensor([10.0, 30.0, 0.0])) == pytest.approx(40)
    made = objective(counts=(1, 3, 8), class_weights="balanced")
    expected = -(log_likelihoods() * class_weights([1, 3, 8])[LABELS]).mean()
    assert loss_of(made) == pytest.approx(float(expected))


def test_soft_labels_are_cross_entropy_and_not_a_binary_one() -> None:
    shares = torch.tensor([[0.5, 0.5, 0.0]] * 4)
    expected = -(LOGITS.log_softmax(1) * shares).sum(1).mean()
    assert loss_of(objective(), shares) == pytest.approx(float(expected))


def batch() -> dict[str, Any]:
    """Image i is all i, of class i."""
    return {
        "pixel_values": torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 8).clone(),
        "labels": torch.arange(3),
    }


def test_without_flags_nothing_is_blended() -> None:
    assert objective().mix(given := batch()) is given


def test_mixup_blends_images_as_it_blends_their_labels() -> None:
    torch.manual_seed(0)
    mixed = objective(mixup=1.0).mix(batch())
    labels = mixed["labels"]
    assert labels.sum(1).tolist() == pytest.approx([1.0] * 3)
    assert 0.01 < labels.max() < 0.99
    expected = labels @ torch.arange(3.0)
    assert torch.allclose(mixed["pixel_values"][:, 0, 0, 0], expected)
    assert mixed["pixel_values"].std(dim=(1, 2, 3)).max() < 1e-6


def test_cutmix_pastes_a_rectangle_whose_share_is_the_labels() -> None:
    torch.manual_seed(1)
    mixed = objective(cutmix=1.0).mix(batch())
    for number, (image, shares) in enumerate(zip(mixed["pixel_values"], mixed["labels"], strict=True)):
        assert set(image.unique().tolist()) <= {float(number), float((number - 1) % 3)}
        assert float((image == number).float().mean()) == pytest.approx(float(shares[number]), abs=1e-6)
    assert mixed["labels"].max() < 1


def test_with_both_each_batch_takes_one_by_lot() -> None:
    torch.manual_seed(0)
    made = objective(mixup=1.0, cutmix=1.0)
    whole = [bool(made.mix(batch())["pixel_values"].std(dim=(1, 2, 3)).max() < 1e-6) for _ in range(40)]
    assert 8 < sum(whole) < 32


def test_a_perfect_answer_costs_nothing() -> None:
    sure = SimpleNamespace(logits=torch.eye(3) * 100)
    assert float(objective()(sure, torch.arange(3))) == pytest.approx(0, abs=1e-6)
    even = SimpleNamespace(logits=torch.zeros(2, 3))
    assert float(objective()(even, torch.tensor([0, 1]))) == pytest.approx(math.log(3))
