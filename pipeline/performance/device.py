"""The device, its data types and its synchronization."""

from typing import Literal

import psutil
import torch

from pipeline import distributed

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """Return the current accelerator, or the CPU if there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def free_memory(device: torch.device) -> int:
    """Return the free memory of the device in bytes. Processes that share the memory of a machine get equal parts."""
    if device.type in ("cpu", "mps"):
        return int(psutil.virtual_memory().available) // distributed.local_world_size()
    return torch.accelerator.get_memory_info(device)[0]


def synchronize(device: torch.device) -> None:
    """Synchronize the device. Does nothing on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
