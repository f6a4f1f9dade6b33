"""Frozen blocks, and the learning rate and weight decay of each parameter. Adapters are in `lora`."""

import logging
import re
from types import MethodType
from typing import Any

from peft import PeftModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models.head import head_names

logger = logging.getLogger(__name__)

# Tokens and position embeddings are not decayed, as in timm. Biases and norms are not in this pattern: they are
# recognized by their single dimension.
_NO_WEIGHT_DECAY = re.compile(r"(tokens?|pos_embed|position_embeddings?|relative_position_bias_table)(\.weight)?$")

_NOT_BLOCKS = re.compile("embed|stem")  # a list of modules with such a name does not hold blocks


def block_depths(model: PreTrainedModel) -> dict[str, int]:
    """Return the depth of each parameter: parameter name -> depth.

    With n blocks, the depth is 0 before the first block, 1 to n in the blocks, and n + 1 after the last block. The
    downsampling layer of a stage has the depth of the block next to it. A position bias that all blocks share (as in
    BEiT's pre-training) has depth 0, like position embeddings, because frozen blocks use it too.

    Raises:
        PipelineError: If the network is not a chain of blocks.
    """
    stages = _stages(model)
    if not stages:
        raise PipelineError(
            f"{type(model).__name__} is not a chain of blocks: remove --layer_decay and --freeze_blocks"
        )
    block_numbers = {block: i for i, block in enumerate((b for blocks in stages.values() for b in blocks), start=1)}
    depths: dict[str, int] = {}
    last_block = 0
    for name, _ in model.named_parameters():
        if block := _module_of(name, block_numbers):
            depths[name] = last_block = block_numbers[block]
        elif stage := _module_of(name, stages):
            depths[name] = max(last_block, block_numbers[stages[stage][0]])
        else:
            depths[name] = last_block + 1 if last_block == len(block_numbers) else last_block
    return depths


def block_names(model: nn.Module) -> list[str]:
    """Return the names of the blocks of all stages, in order, or an empty list if there are none."""
    return [block for blocks in _stages(model).values() for block in blocks]


def parameter_groups(
    model: PreTrainedModel | PeftModel,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Return the trained parameters as optimizer groups, one for each learning rate and weight decay.

    With n blocks, a weight at depth d has the learning rate `learning_rate * layer_decay ** (n + 1 - d)`, as in BEiT
    (arXiv 2106.08254), MAE and timm's `param_groups_layer_decay`. Parameters with one dimension (biases, norms),
    tokens and position embeddings have no weight decay. The order of the groups is always the same. The first group
    has the learning rate that is closest to `learning_rate`, because the Trainer logs the learning rate of this group.

    Args:
        model: A model of transformers, with or without the adapters of `lora.add_lora`. All adapters have
            `learning_rate`.
        learning_rate: Peak learning rate of the parameters after the last block.
        weight_decay: Weight decay of matrices and convolution kernels.
        layer_decay: Learning rate of each block as a fraction of the learning rate of the next block.
        head_learning_rate: Peak learning rate of the head. Default: `learning_rate`.

    Raises:
        PipelineError: If `layer_decay` is below 1 and the network is not a chain of blocks.
    """
    if isinstance(model, PeftModel):
        head = {name for name, _ in model.named_parameters() if ".modules_to_save." in name}
        decay_steps: dict[str, int] = {}
    else:
        head = head_names(model)
        depths = block_depths(model) if layer_decay < 1 else {}
        decay_steps = {name: max(depths.values()) - depth for name, depth in depths.items()}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = learning_rate * layer_decay ** decay_steps.get(name, 0)
        if name in head and head_learning_rate is not None:
            lr = head_learning_rate
        decay = 0.0 if parameter.ndim <= 1 or _NO_WEIGHT_DECAY.search(name) else weight_decay
        group = groups.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
        group["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: abs(group["lr"] - learning_rate))


def count_blocks(model: PreTrainedModel, *, at_least: int) -> int:
    """Return the number of blocks of the network.

    Args:
        model: A model of transformers without adapters.
        at_least: Number of blocks that will be frozen.

    Raises:
        PipelineError: If there are fewer than `at_least` blocks, or the network is not a chain of blocks.
    """
    n = max(block_depths(model).values()) - 1
    if at_least > n:
        raise PipelineError(
            f"--freeze_blocks {at_least} is more than the {n} blocks of {type(model).__name__}: use at most {n}"
        )
    return n


def freeze_blocks(model: PreTrainedModel, count: int) -> None:
    """Freeze the first blocks and everything before them, with the running statistics of their batch norms.

    Args:
        model: Changed in place. Parameters that are already frozen stay frozen.
        count: Number of blocks to freeze. With 0, nothing is frozen.

    Raises:
        PipelineError: If there are fewer than `count` blocks, or the network is not a chain of blocks.
    """
    if count == 0:
        return
    depths, n = block_depths(model), count_blocks(model, at_least=count)
    for name, parameter in model.named_parameters():
        if depths[name] <= count:
            parameter.requires_grad_(False)
    freeze_batch_statistics(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    logger.info(
        "froze the first %d of %d blocks; training %.1f M of %.1f M parameters",
        count,
        n,
        trained / 1e6,
        total / 1e6,
    )


def freeze_batch_statistics(model: nn.Module) -> None:
    """Keep every batch norm whose weights are frozen in evaluation mode, even when the network is set to train mode.

    Otherwise every training step would normalize by the statistics of the batch and update the running statistics.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and {p.requires_grad for p in module.parameters()} == {False}:
            module.eval()
            module.train = MethodType(_keep_mode, module)  # type: ignore[method-assign]


def _keep_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    """Replace `nn.Module.train`, which the Trainer calls in every training step, where no callback can undo it."""
    del mode
    return module


def _stages(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of the blocks of each stage, in order: stage name -> block names.

    The blocks are the elements of a list of modules. If such an element is itself a list, or has a list as a child,
    it is a stage. If a network has no stages, each block is returned as a stage of one block. The networks of
    transformers and timm have this structure, and only the names of the lists differ.
    """
    stages: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if _module_of(f"{name}.", stages) or _NOT_BLOCKS.search(name):
            continue
        for key, stage in _elements(module):
            inner = [key, *(f"{key}.{child}" for child, _ in stage.named_children())]
            blocks = [f"{path}.{block}" for path in inner for block, _ in _elements(module.get_submodule(path))]
            stages[f"{name}.{key}"] = [f"{name}.{block}" for block in blocks] or [f"{name}.{key}"]
    return stages


def _elements(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the elements of a list of modules that have parameters, or an empty list if one of them has no children.

    An element without children is a plain layer, so the list cannot be a list of blocks.
    """
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return []
    elements = [(key, child) for key, child in module.named_children() if next(child.parameters(), None) is not None]
    return elements if all(next(child.children(), None) is not None for _, child in elements) else []


def _module_of(name: str, modules: dict[str, Any]) -> str | None:
    """Return the name of the first of these modules that contains the given parameter or module, or None."""
    return next((module for module in modules if name.startswith(f"{module}.")), None)
