"""What the layers of a network compute for a batch: attention maps, hidden states, and the logits after each layer."""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from pipeline.models.layers import block_names


@dataclass
class Recorded:
    """What one forward pass computed. Each list has one entry for each block, or none if no block has it.

    Attributes:
        attention: Attention maps (batch, heads, tokens, tokens): the leaves from which autograd starts.
        query: Queries (batch, heads, tokens, size of a head).
        key: Keys, with the same shape.
        value: Values, with the same shape.
        hidden: Output of each block. Its graph contains this block only.
        logits: Logits (batch, classes).
    """

    attention: list[Tensor] = field(default_factory=list)
    query: list[Tensor] = field(default_factory=list)
    key: list[Tensor] = field(default_factory=list)
    value: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the blocks of a network, in order."""
    return [model.get_submodule(name) for name in block_names(model)]


def record(model: PreTrainedModel, pixel_values: Tensor) -> Recorded:
    """Run the network once with eager attention, and return what each block computed, ready for autograd.

    The input of every block is detached. So the gradient of a value that is computed from the output of a block reaches
    the attention map of this block and stops there: one backward pass gives the gradients of all layers.

    Args:
        model: A network in evaluation mode. It is left as it was.
        pixel_values: (batch, 3, height, width), on the device of the network.
    """
    recorded = Recorded()

    def attend(
        _module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        weights = _attention_weights(query, key, attention_mask, scaling)
        for values, tensor in zip(
            (recorded.attention, recorded.query, recorded.key, recorded.value),
            (weights, query, key, value),
            strict=True,
        ):
            values.append(tensor)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    def detach(_block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].detach(), *args[1:])

    def keep(_block: nn.Module, _args: Any, output: Any) -> None:
        recorded.hidden.append(first(output))

    with _frozen(model), _attention(model, attend), contextlib.ExitStack() as hooks, torch.enable_grad():
        for block in blocks_of(model):
            for handle in (block.register_forward_pre_hook(detach), block.register_forward_hook(keep)):
                hooks.callback(handle.remove)
        recorded.logits = model(pixel_values=pixel_values).logits
    return recorded


def record_prefix(model: PreTrainedModel, pixel_values: Tensor, num_prefix_tokens: int) -> Recorded:
    """Run the network once without autograd, and return what each block computed for its first tokens, ready for it.

    The network runs at its own speed. Then each block runs again for the prefix tokens only, with the keys and values
    of all tokens, which costs next to nothing.

    Args:
        model: A network in evaluation mode. It is left as it was.
        pixel_values: (batch, 3, height, width), on the device of the network.
        num_prefix_tokens: Tokens before the patches.

    Returns:
        `attention` (batch, heads, prefix tokens, tokens), `hidden` (batch, prefix tokens, hidden size) and `logits`.
    """
    passed, inputs = Recorded(), list[tuple[tuple[Any, ...], dict[str, Any]]]()

    def attend(
        _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None,
        scaling: float | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        passed.key.append(key)
        passed.value.append(value)
        output = nn.functional.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)
        return output.transpose(1, 2).contiguous(), None

    def keep(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append((args, kwargs))

    blocks = blocks_of(model)
    with _attention(model, attend), contextlib.ExitStack() as hooks, torch.no_grad():
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
        recorded = Recorded(logits=model(pixel_values=pixel_values).logits)

    def attend_again(
        _module: nn.Module, query: Tensor, _key: Tensor, _value: Tensor, attention_mask: Tensor | None = None,
        scaling: float | None = None, **_: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        place = len(recorded.attention)
        mask = None if attention_mask is None else attention_mask[..., :num_prefix_tokens, :]
        weights = _attention_weights(query, passed.key[place], mask, scaling)
        recorded.attention.append(weights)
        return (weights @ passed.value[place]).transpose(1, 2).contiguous(), weights

    with _frozen(model), _attention(model, attend_again), torch.enable_grad():
        for block, (args, kwargs) in zip(blocks, inputs, strict=True):
            recorded.hidden.append(first(block(args[0][:, :num_prefix_tokens], *args[1:], **kwargs)))
    return recorded


@torch.enable_grad()
def logits_after(model: PreTrainedModel, hidden: Sequence[Tensor], pixel_values: Tensor) -> Tensor:
    """Return the logits that the rest of the network (last norm, pooling, head) gives for the output of each block.

    Args:
        model: The network.
        hidden: Outputs of blocks, each (batch, tokens, hidden size).
        pixel_values: The images, of which one is embedded, because the forward pass starts with images.

    Returns:
        (layers, batch, classes).
    """
    stacked = torch.cat(list(hidden))
    with _frozen(model), contextlib.ExitStack() as replaced:
        for block in blocks_of(model):
            replaced.enter_context(_returns(block, stacked))
        logits: Tensor = model(pixel_values=pixel_values[:1]).logits.view(len(hidden), len(pixel_values), -1)
    return logits


def _attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Return the attention weights as a leaf of autograd."""
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return (scores if mask is None else scores + mask).softmax(dim=-1).detach().requires_grad_()


def first(output: Any) -> Tensor:
    """Return the hidden states in the output of a block."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze all weights, so that the graph keeps no activations for their gradients."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


@contextlib.contextmanager
def _attention(model: PreTrainedModel, attend: Any) -> Iterator[None]:
    """Make the network compute attention with a function, if transformers lets us choose the function."""
    network: Any = model
    if not network._can_set_attn_implementation():
        yield
        return
    before, name = network.config._attn_implementation, f"recorded-{uuid.uuid4().hex}"
    AttentionInterface.register(name, attend)
    try:
        network.set_attn_implementation(name)
        yield
    finally:
        network.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop(name, None)


@contextlib.contextmanager
def _returns(block: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Make a block return hidden states without computing anything."""
    block.forward = lambda *_args, **_kwargs: hidden
    try:
        yield
    finally:
        del block.forward
