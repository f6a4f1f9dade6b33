"""Low-rank adapters (LoRA, arXiv 2106.09685) of peft: added to a model, merged into it, and saved."""

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
from pipeline.runs.files import set_permissions

logger = logging.getLogger(__name__)

# Names that transformers and timm give to the query and value projections. A qkv layer also projects the keys.
_PROJECTIONS = ("q_proj", "v_proj", "query", "value", "projection_query", "projection_value", "qkv")


def add_lora(model: PreTrainedModel, *, rank: int, alpha: int, dropout: float) -> PeftModel:
    """Add adapters to the query and value projections. Only the adapters and the head are trained.

    The model is changed in place. Its logits do not change until it is trained, because the second matrix of each
    adapter starts at zero. The first matrix is sampled from torch's random generator.

    Args:
        model: A transformer.
        rank: Rank of the adapters.
        alpha: The output of an adapter is scaled by `alpha / rank`.
        dropout: Probability of dropout on the input of the adapters, in training.

    Returns:
        The model with adapters, which contains the given model.

    Raises:
        PipelineError: If the model has no query and value projections. Convolutional networks do not have them.
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
        # peft 0.21 reads a property that transformers 5 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapted = get_peft_model(model, config)
    freeze_batch_statistics(adapted)
    total += sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    logger.info(
        "LoRA rank %d on %d projections; training %.1f M of %.1f M parameters (%.1f%%)",
        rank,
        len(targets),
        trained / 1e6,
        total / 1e6,
        100 * trained / total,
    )
    return adapted


def merged(model: PeftModel) -> PreTrainedModel:
    """Return a copy of the model with the adapters merged into its weights. The given model is not changed."""
    return unwrap(copy.deepcopy(model))


def unwrap(model: PeftModel) -> PreTrainedModel:
    """Merge the adapters into the weights, in place, and return the model that was given to `add_lora`."""
    base: PreTrainedModel = model.merge_and_unload()
    return base


def save_adapter(model: PeftModel, folder: Path, *, base_name: str, revision: str) -> None:
    """Write the adapters and the head so that `PeftModel.from_pretrained(base, folder)` loads them.

    Args:
        model: The result of `add_lora`.
        folder: Folder to write. It is created if it does not exist.
        base_name: Hub id or path of the base model.
        revision: Revision of the base model.

    Raises:
        PipelineError: If the folder cannot be written or the disk is full.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = base_name, revision
    try:
        # The default "auto" would ask the Hub whether the vocabulary of the base model has changed.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink()  # an empty model card that contains the local path of the base model
        set_permissions(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"cannot write the adapter to {folder}: {reason}") from error


def find_projections(model: PreTrainedModel) -> list[str]:
    """Return the names of the query and value projections.

    Raises:
        PipelineError: If the model has no such projections.
    """
    found = [
        name
        for name, module in model.named_modules()
        if name.endswith(tuple(f".{suffix}" for suffix in _PROJECTIONS))
        and isinstance(module, nn.Linear)
        # A timm layer with a separate bias (BEiT, EVA) uses the weight directly and would skip the adapter.
        and getattr(model.get_submodule(name.rpartition(".")[0]), "q_bias", None) is None
    ]
    if not found:
        raise PipelineError(
            f"--strategy lora does not support {type(model).__name__}, which has no query and value projections "
            "for adapters: use --strategy full or --strategy head"
        )
    return found
