"""What one image costs in matrix products: counted on the architecture without weights, never by running the model.

Products of matrices, convolutions and attention count, two operations for a multiplication and an addition; what is
done element by element does not, nor what activation checkpointing computes twice.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def forward_flops(model: nn.Module, size: tuple[int, int], **options: Any) -> int:
    """Operations of the forward pass of one image.

    Args:
        model: With `pixel_values` as its input and `logits` as its output; left as it is.
        size: Height and width of the image in pixels.
        options: Of its forward method.
    """
    with torch.no_grad():
        return _count(model, size, options, training=False)


def training_flops(model: nn.Module, size: tuple[int, int], **options: Any) -> int:
    """Operations of the forward and backward pass of one image, with those weights trained that need a gradient.

    Where all are trained that is three times the forward pass, less the gradient of the pixels; below the lowest
    trained weight there is no backward pass, and a frozen weight costs no gradient of its own. Patches that are
    dropped cost nothing.

    Args:
        model: As for `forward_flops`; `requires_grad` of its parameters says what is trained.
        size: Height and width of the image in pixels.
        options: Of its forward method.
    """
    with torch.enable_grad():
        return _count(model, size, options, training=True)


def meta_copy(model: nn.Module) -> nn.Module:
    """The same network, wrapped and frozen alike, whose parameters and buffers have shapes and no memory."""
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    memo |= {id(buffer): buffer.detach().to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _count(model: nn.Module, size: tuple[int, int], options: dict[str, Any], *, training: bool) -> int:
    shadow: Any = meta_copy(model).train(training)
    for module in shadow.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # else it would not take a batch of one
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward_flops}
    )
    with counter:
        logits = shadow(pixel_values=torch.zeros(1, 3, *size, device="meta"), **options).logits
        if logits.requires_grad:
            logits.sum().backward()
    total: int = counter.get_total_flops()
    return total


def _convolution_backward_flops(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """Each gradient, of the input and of the weight, costs what the forward pass does.

    The counter's own formula multiplies the weight's by the number of groups, 384 in a depthwise convolution.
    """
    transposed, wanted = rest[4], rest[7]
    once: int = conv_flop_count(list(x), list(weight), list(gradient), transposed=transposed)
    return int(sum(wanted[:2])) * once
