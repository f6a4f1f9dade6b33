"""Defaults that depend on the machine: memory allocation, attention implementation and device."""

import subprocess
import sys

import pytest
import torch

from pipeline.performance.device import pick_device
from pipeline.performance.machine import best_attention

PAGE_FAULTS = """
import resource, torch
from pipeline.performance.machine import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = page_faults()
keep_freed_memory()
for _ in range(4):  # the heap grows until its free parts are large enough; how long that takes depends on its address
    page_faults()
print(first, page_faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_reused() -> None:
    printed = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True).stdout
    before, after = map(int, printed.split())
    assert after < before / 5


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cpu", "fp32", "sdpa"), ("cpu", "bf16", "eager"), ("cuda", "bf16", "sdpa"), ("cuda", "fp32", "sdpa")],
)
def test_the_faster_attention_implementation_is_selected(device: str, precision: str, expected: str) -> None:
    assert best_attention(torch.device(device), precision) == expected


def test_the_accelerator_is_picked_if_there_is_one() -> None:
    device = pick_device()
    assert (device.type != "cpu") == torch.accelerator.is_available()
    assert torch.ones(1, device=device).device.type == device.type
