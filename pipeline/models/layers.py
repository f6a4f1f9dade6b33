"""Which weights of a network are trained, and at which rate. Adapters are in `lora`."""

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

# Tokens and tables: places in the input, not pulled to zero either. Biases and norms are known by their shape.
_UNDECAYED = re.compile(r"(tokens?|pos_embed|position_embeddings?|relative_position_bias_table)(\.weight)?$")

_STEM = re.compile("embed|stem")  # lists that are no blocks, wherever they stand


def block_depths(model: PreTrainedModel) -> dict[str, int]:
    """How deep in the network each parameter is: parameter name -> depth.

    0 for what comes before the first block, 1 to n for the blocks, n + 1 for what comes after the last. A stage's
    downsampling belongs to the block beside it. A position bias that all blocks share (BEiT's pre-training) counts as
    before the first, like a position table: blocks that are frozen use it too.

    Raises:
        PipelineError: If the network is no chain of blocks.
    """
    stages = _stages(model)
    if not stages:
        raise PipelineError(
            f"the blocks of this {type(model).__name__} are not known: leave out --layer_decay and --freeze_blocks"
        )
    numbers = {block: i for i, block in enumerate((b for blocks in stages.values() for b in blocks), start=1)}
    depths: dict[str, int] = {}
    reached = 0
    for name, _ in model.named_parameters():
        if block := _owner(name, numbers):
            depths[name] = reached = numbers[block]
        elif stage := _owner(name, stages):
            depths[name] = max(reached, numbers[stages[stage][0]])
        else:
            depths[name] = reached + 1 if reached == len(numbers) else reached
    return depths


def parameter_groups(
    model: PreTrainedModel | PeftModel,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """The parameters that are trained, for an optimizer: by rate and weight decay, always in the same order.

    A weight at depth d has the rate `learning_rate * layer_decay ** (n + 1 - d)`, as in BEiT (arXiv 2106.08254), MAE
    and timm's `param_groups_layer_decay`. Nothing of one dimension (biases, norms), no token and no position table
    decays. The first group has the rate nearest to `learning_rate`, which is the one that the Trainer logs.

    Args:
        model: Plain, or with the adapters of `lora.add_lora`, which all have `learning_rate`.
        learning_rate: Peak rate of what comes after the last block.
        weight_decay: Of matrices and kernels.
        layer_decay: The rate of each block as a share of the one above it.
        head_learning_rate: Peak rate of the head, where not `learning_rate`.

    Raises:
        PipelineError: If the layers decay, and the network is no chain of blocks.
    """
    if isinstance(model, PeftModel):
        head = {name for name, _ in model.named_parameters() if ".modules_to_save." in name}
        below: dict[str, int] = {}
    else:
        head = head_names(model)
        depths = block_depths(model) if layer_decay < 1 else {}
        below = {name: max(depths.values()) - depth for name, depth in depths.items()}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = learning_rate * layer_decay ** below.get(name, 0)
        if name in head and head_learning_rate is not None:
            rate = head_learning_rate
        decay = 0.0 if parameter.ndim <= 1 or _UNDECAYED.search(name) else weight_decay
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: abs(group["lr"] - learning_rate))


def count_blocks(model: PreTrainedModel, *, at_least: int) -> int:
    """How many blocks the network has.

    Raises:
        PipelineError: If there are fewer than can be frozen, or the network is no chain of blocks.
    """
    n = max(block_depths(model).values()) - 1
    if at_least > n:
        raise PipelineError(f"--freeze_blocks {at_least}: this {type(model).__name__} has {n} blocks")
    return n


def freeze_blocks(model: PreTrainedModel, count: int) -> None:
    """Leave what comes before the first block, and the lowest blocks, as they are; batch statistics too.

    Args:
        model: Whose parameters are marked. What is frozen already stays so.
        count: How many blocks; 0 freezes nothing.

    Raises:
        PipelineError: If there are fewer blocks, or the network is no chain of blocks.
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
        "froze the lowest %d of %d blocks: %.1f M of %.1f M parameters are trained",
        count,
        n,
        trained / 1e6,
        total / 1e6,
    )


def freeze_batch_statistics(model: nn.Module) -> None:
    """Keep the batch norms whose weights are frozen in evaluation mode, whatever mode the network is set to.

    Else every step would move their running statistics, and normalise by those of the batch.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and {p.requires_grad for p in module.parameters()} == {False}:
            module.eval()
            module.train = MethodType(_keep_mode, module)  # type: ignore[method-assign]


def _keep_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `nn.Module.train`: the Trainer calls that at every step, below any hook or callback of ours."""
    del mode
    return module


def _stages(model: nn.Module) -> dict[str, list[str]]:
    """Name of a stage -> names of its blocks, in order; a network without stages has stages of one block.

    Blocks are elements of a list of modules; where such an element is a list, or has one as a child, it is a stage.
    That is the structure of the networks of transformers and timm, whatever they call their lists.
    """
    stages: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if _owner(f"{name}.", stages) or _STEM.search(name):
            continue
        for key, stage in _elements(module):
            inner = [key, *(f"{key}.{child}" for child, _ in stage.named_children())]
            blocks = [f"{path}.{block}" for path in inner for block, _ in _elements(module.get_submodule(path))]
            stages[f"{name}.{key}"] = [f"{name}.{block}" for block in blocks] or [f"{name}.{key}"]
    return stages


def _elements(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The elements of a list of modules that are made of modules themselves; nothing where they are plain layers."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return []
    elements = [(key, child) for key, child in module.named_children() if next(child.parameters(), None) is not None]
    return elements if all(next(child.children(), None) is not None for _, child in elements) else []


def _owner(name: str, modules: dict[str, Any]) -> str | None:
    """The one of these modules in which something lies."""
    return next((module for module in modules if name.startswith(f"{module}.")), None)
