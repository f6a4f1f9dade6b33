"""Small images first: which epochs, which size, which networks, and what is told of the speed."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedConfig, TrainerControl, TrainerState, TrainingArguments, ViTConfig

from pipeline.models.flops import training_flops
from pipeline.training.progressive import Grow, smaller
from tests.training.fitting import Fitted, stored


def test_the_last_epochs_have_the_full_size(fitted: Callable[..., Fitted]) -> None:
    done = fitted(num_train_epochs=5, progressive_resizing=0.5)
    sizes = [tuple(pixels.shape[-2:]) for pixels in done.seen]
    assert sizes == [(8, 8)] * 24 + [(16, 16)] * 6
    assert done.model.config.image_size == 16
    best = done.folder / f"checkpoint-{done.state['best_global_step']}"
    assert stored(best)["vit.embeddings.position_embeddings"].shape[1] == 1 + 4 * 4
    assert max(done.log("eval_accuracy")) > 0.5


def test_a_small_image_costs_less_and_the_speed_says_so(fitted: Callable[..., Fitted]) -> None:
    done = fitted(num_train_epochs=5, progressive_resizing=0.5)
    small, full = (training_flops(done.model, (side, side), interpolate_pos_encoding=True) for side in (8, 16))
    # The first step is not on the clock.
    mean = (23 * small + 6 * full) / 29
    assert done.figures["speed"]["gflops_per_image"] == pytest.approx(mean / 1e9, abs=1e-3)


@pytest.mark.parametrize(("epochs", "full"), [(1, [0]), (2, [1]), (3, [2]), (10, [9]), (20, [18, 19])])
def test_which_epochs_are_small(epochs: int, full: list[int]) -> None:
    told = torch.zeros(2, dtype=torch.int64)
    grow, state = Grow(told, small=(8, 8), full=(16, 16)), TrainerState(num_train_epochs=epochs)
    sides = []
    for epoch in range(epochs):
        state.epoch = float(epoch)
        grow.on_epoch_begin(TrainingArguments(), state, TrainerControl())
        sides.append(int(told[0]))
    assert [epoch for epoch, side in enumerate(sides) if side == 16] == full


@pytest.mark.parametrize(
    ("share", "config", "expected"),
    [
        (0.67, ViTConfig(patch_size=4), (32, 32)),
        (0.01, ViTConfig(patch_size=4), (4, 4)),
        (0.5, PreTrainedConfig(), (24, 24)),
        (1.0, ViTConfig(patch_size=16), (48, 48)),
    ],
)
def test_the_small_size_is_whole_patches(share: float, config: PreTrainedConfig, expected: tuple[int, int]) -> None:
    assert smaller((48, 48), share, config) == expected
