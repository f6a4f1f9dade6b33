"""The largest batch size that fits, tested with a model that raises out-of-memory errors above a limit."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.performance.batch_size import TrainingMemory, find_batch_size, out_of_memory_explained


class LimitedMemory(nn.Module):
    """A model that runs out of memory with more images than its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)
        self.attempts: list[int] = []

    def forward(self, pixel_values: Tensor) -> Any:
        if len(pixel_values) not in self.attempts[-1:]:
            self.attempts.append(len(pixel_values))
        if len(pixel_values) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        noise = torch.rand(())
        return SimpleNamespace(logits=self.head(self.norm(pixel_values).mean((2, 3))) + noise)


def find(model: LimitedMemory, requested: int) -> int:
    cpu = torch.device("cpu")
    return find_batch_size(model, (8, 8), requested=requested, device=cpu, memory=TrainingMemory("fp32"))


@pytest.mark.parametrize(
    ("limit", "requested", "expected", "attempts"),
    [(64, 32, 32, [32]), (9, 32, 8, [32, 16, 8]), (4, 12, 3, [12, 6, 3]), (3, 14, 2, [14, 7, 2])],
)
def test_the_largest_divisor_that_fits_is_found(limit: int, requested: int, expected: int, attempts: list[int]) -> None:
    model = LimitedMemory(limit)
    assert find(model, requested) == expected
    assert model.attempts == attempts


def test_the_model_and_the_random_state_are_restored() -> None:
    model = LimitedMemory(5).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    find(model, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_an_error_suggests_flags_if_a_single_image_does_not_fit() -> None:
    with pytest.raises(PipelineError, match=r"a single image does not fit in memory: use --activation_checkpointing"):
        find(LimitedMemory(0), 8)


def test_other_errors_are_not_taken_for_out_of_memory() -> None:
    class Broken(LimitedMemory):
        def forward(self, pixel_values: Tensor) -> Any:
            raise RuntimeError(f"a bug at {len(pixel_values)}")

    with pytest.raises(RuntimeError, match="a bug at 8"):
        find(Broken(1), 8)
    with pytest.raises(RuntimeError, match="a bug"), out_of_memory_explained(global_batch=8, per_device=8):
        raise RuntimeError("a bug")


def test_an_out_of_memory_error_in_training_suggests_flags_in_one_line() -> None:
    with pytest.raises(PipelineError) as caught, out_of_memory_explained(global_batch=64, per_device=16):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert str(caught.value) == (
        "training with per-device batch size 16 does not fit in memory: use --auto_find_batch_size, "
        "or --global_batch_size 64 --per_device_train_batch_size 8, or --activation_checkpointing, "
        "or a smaller --image_size"
    )
    with pytest.raises(PipelineError) as again, out_of_memory_explained(global_batch=64, per_device=16, searched=True):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert "--auto_find_batch_size" not in str(again.value)
