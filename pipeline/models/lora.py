"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: put on, merged into an ordinary model, saved."""

import copy
import logging
import warnings
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models.head import head_names
from pipeline.models.layers import freeze_batch_statistics

logger = logging.getLogger(__name__)

# Linear layers of attention that make queries and values, as transformers and timm call them; qkv makes keys too.
_PROJECTIONS = ("q_proj", "v_proj", "query", "value", "projection_query", "projection_value", "qkv")


def add_lora(model: PreTrainedModel, *, rank: int, alpha: int, dropout: float) -> PeftModel:
    """Put adapters on the query and value projections; they and the head are trained, all else is frozen.

    The given model is changed in place, and answers as before until it is trained: an adapter's second matrix starts
    at zero. The first is drawn from torch's generator.

    Args:
        model: A transformer.
        rank: Of the adapters.
        alpha: Their scale is `alpha / rank`.
        dropout: In front of the adapters, in training.

    Raises:
        PipelineError: If it has no such projections, as a convolutional network has none.
    """
    targets = find_projections(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in targets}),
        modules_to_save=sorted({name.rpartition(".")[0] for name in head_names(model)}),
    )
    total = sum(p.numel() for p in model.parameters())
    with warnings.catch_warnings():
        # peft 0.21 asks for a property that transformers 5 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapted = get_peft_model(model, config)
    freeze_batch_statistics(adapted)
    total += sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    logger.info(
        "LoRA rank %d on %d projections: %.1f M of %.1f M parameters are trained (%.1f %%)",
        rank,
        len(targets),
        trained / 1e6,
        total / 1e6,
        100 * trained / total,
    )
    return adapted


def merged(model: PeftModel) -> PreTrainedModel:
    """An ordinary model that answers as the adapted one, which stays as it is."""
    return unwrap(copy.deepcopy(model))


def unwrap(model: PeftModel) -> PreTrainedModel:
    """Merge the adapters, in place: the model that was given to `add_lora`, an ordinary one again."""
    base: PreTrainedModel = model.merge_and_unload()
    return base


def save_adapter(model: PeftModel, folder: Path, *, base_name: str, revision: str) -> None:
    """Write adapters and head as `PeftModel.from_pretrained(base, folder)` reads them.

    Args:
        model: Of `add_lora`.
        folder: Is made.
        base_name: Hub id of the model that the adapters belong on, or where it lies.
        revision: Of that model.

    Raises:
        PipelineError: If the folder cannot be written or is full.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = base_name, revision
    try:
        # "auto" would ask the Hub whether the base has grown new words.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink()  # a card without content, which names the machine's path of the base
        (folder / "adapter_model.safetensors").chmod(0o644)  # safetensors writes 0600, which a server could not read
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"cannot write the adapter into {folder}: {reason}") from error


def find_projections(model: PreTrainedModel) -> list[str]:
    """Names of the query and value projections.

    Raises:
        PipelineError: If there are none.
    """
    found = [
        name
        for name, module in model.named_modules()
        if name.endswith(tuple(f".{kind}" for kind in _PROJECTIONS))
        and isinstance(module, nn.Linear)
        # Where timm keeps their bias apart (BEiT, EVA), it multiplies by the weight itself, past any adapter.
        and getattr(model.get_submodule(name.rpartition(".")[0]), "q_bias", None) is None
    ]
    if not found:
        raise PipelineError(
            f"--strategy lora: this {type(model).__name__} has no attention projections that adapters fit: "
            "take --strategy full or --strategy head"
        )
    return found
