"""What the machine decides about memory and attention."""

import subprocess
import sys

import pytest
import torch

from pipeline.performance.machine import best_attention

FAULTS = """
import resource, torch
from pipeline.performance.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be told")
def test_memory_that_was_freed_is_used_again() -> None:
    printed = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    before, after = map(int, printed.split())
    assert after < before / 5


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cpu", "fp32", "sdpa"), ("cpu", "bf16", "eager"), ("cuda", "bf16", "sdpa"), ("cuda", "fp32", "sdpa")],
)
def test_attention_is_computed_in_the_faster_way(device: str, precision: str, expected: str) -> None:
    assert best_attention(torch.device(device), precision) == expected
