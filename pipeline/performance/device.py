"""The device, its data types and its synchronization."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """Return the current accelerator, or the CPU if there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def synchronize(device: torch.device) -> None:
    """Synchronize the device. Does nothing on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
