"""FLOPs of a model for one image, counted on the meta device without running the model.

Matrix products, convolutions and attention are counted: one multiplication and one addition are two FLOPs.
Element-wise operations and the recomputation of activation checkpointing are not counted.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def forward_flops(model: nn.Module, size: tuple[int, int], **options: Any) -> int:
    """Return the FLOPs of the forward pass for one image.

    Args:
        model: Model with the input `pixel_values` and the output `logits`. It is not changed.
        size: Height and width of the image in pixels.
        options: Further arguments of the model's forward method.
    """
    with torch.no_grad():
        return _count(model, size, options, training=False)


def training_flops(model: nn.Module, size: tuple[int, int], **options: Any) -> int:
    """Return the FLOPs of the forward and backward pass for one image.

    If all weights are trained, this is three times the forward pass minus the gradient of the pixels. Frozen weights
    need no gradient, and there is no backward pass below the first trained weight. Dropped patches cost nothing.

    Args:
        model: As for `forward_flops`. `requires_grad` decides which parameters are trained.
        size: Height and width of the image in pixels.
        options: Further arguments of the model's forward method.
    """
    with torch.enable_grad():
        return _count(model, size, options, training=True)


def meta_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the model on the meta device: its tensors have shapes, but no memory.

    Wrappers and `requires_grad` stay the same.
    """
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    memo |= {id(buffer): buffer.detach().to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _count(model: nn.Module, size: tuple[int, int], options: dict[str, Any], *, training: bool) -> int:
    counted: Any = meta_copy(model).train(training)
    for module in counted.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # In training mode, batch norm rejects a batch of one value per channel.
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward_flops}
    )
    with counter:
        logits = counted(pixel_values=torch.zeros(1, 3, *size, device="meta"), **options).logits
        if logits.requires_grad:
            logits.sum().backward()
    total: int = counter.get_total_flops()
    return total


def _convolution_backward_flops(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """Return the FLOPs of the backward pass: the gradients of input and weight cost one forward pass each.

    The formula of `FlopCounterMode` multiplies the cost of the weight gradient by the number of groups, which is 384 in
    a depthwise convolution with 384 channels.
    """
    transposed, output_mask = rest[4], rest[7]
    forward: int = conv_flop_count(list(x), list(weight), list(gradient), transposed=transposed)
    return int(sum(output_mask[:2])) * forward
