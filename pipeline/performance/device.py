"""The device, the data types it computes in, and waiting for it."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued; the processor queues nothing."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
