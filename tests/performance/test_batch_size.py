"""The largest batch that fits, on a network that really runs out of memory above a size."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.performance.batch_size import Load, find_batch_size, out_of_memory_explained


class Hungry(nn.Module):
    """Refuses more images than it has memory for."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)
        self.tried: list[int] = []

    def forward(self, pixel_values: Tensor) -> Any:
        if len(pixel_values) not in self.tried[-1:]:
            self.tried.append(len(pixel_values))
        if len(pixel_values) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        noise = torch.rand(())
        return SimpleNamespace(logits=self.head(self.norm(pixel_values).mean((2, 3))) + noise)


def find(model: Hungry, batch: int) -> int:
    return find_batch_size(model, (8, 8), batch=batch, device=torch.device("cpu"), load=Load("fp32"))


@pytest.mark.parametrize(
    ("most", "batch", "fits", "tried"),
    [(64, 32, 32, [32]), (9, 32, 8, [32, 16, 8]), (4, 12, 3, [12, 6, 3]), (3, 14, 2, [14, 7, 2])],
)
def test_it_is_the_largest_divisor_that_fits(most: int, batch: int, fits: int, tried: list[int]) -> None:
    model = Hungry(most)
    assert find(model, batch) == fits
    assert model.tried == tried


def test_the_network_and_the_generators_are_left_as_they_were() -> None:
    model = Hungry(5).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    find(model, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_where_no_image_fits_it_says_what_to_type() -> None:
    with pytest.raises(PipelineError, match=r"not even one image fits .* --activation_checkpointing"):
        find(Hungry(0), 8)


def test_another_error_is_no_lack_of_memory() -> None:
    class Broken(Hungry):
        def forward(self, pixel_values: Tensor) -> Any:
            raise RuntimeError(f"a bug at {len(pixel_values)}")

    with pytest.raises(RuntimeError, match="a bug at 8"):
        find(Broken(1), 8)
    with pytest.raises(RuntimeError, match="a bug"), out_of_memory_explained(global_batch=8, per_device=8):
        raise RuntimeError("a bug")


def test_running_out_of_memory_in_training_is_one_line() -> None:
    with pytest.raises(PipelineError) as caught, out_of_memory_explained(global_batch=64, per_device=16):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert str(caught.value).count("\n") == 0
    assert "--auto_find_batch_size, or --global_batch_size 64 --per_device_train_batch_size 8" in str(caught.value)
