"""A checkpoint made ready for other classes: new head, label maps, resolution, and its image processor.

Files are found by `pipeline.hub`; how images become tensors belongs to `pipeline.data.transforms`.
"""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from pipeline import hub, runs
from pipeline.config import ModelArguments
from pipeline.data.transforms import ImageProcessor
from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

POSITION_TABLE = "embeddings.position_embeddings"


def build_model(
    args: ModelArguments, *, class_names: Sequence[str], seed: int
) -> tuple[ImageProcessor, PreTrainedModel]:
    """The image processor and the network, in fp32, with one output for each class.

    The head is the checkpoint's own only where its classes are exactly these, in this order; else it is new.
    Every other weight must come from the checkpoint.

    Args:
        args: Which checkpoint, and what to change in it.
        class_names: Names of the classes, in label order.
        seed: Of the weights that are drawn.

    Raises:
        PipelineError: If the checkpoint is missing, is not for images, does not fit, or cannot take `--image_size`.
    """
    folder = hub.find_model(args.model_name_or_path, revision=args.model_revision)
    processor, config = load_processor(folder), _read(AutoConfig, folder)
    if args.image_size is not None:
        check_image_size(config, args.image_size)
        set_input_size(processor, args.image_size)
    torch.manual_seed(seed)
    if args.from_scratch:
        model, head = _from_scratch(config, args.image_size, class_names), "random"
    else:
        model, head = _from_checkpoint(folder, config, args.model_name_or_path, class_names)
        if args.image_size is not None and args.image_size != config.image_size:
            model = resize_positions(model, args.image_size)
    if args.zero_head:
        head = "zero"
        for weight in _head_of(model).parameters():
            nn.init.zeros_(weight)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    logger.info(
        "%s: %s%s, %.1f M parameters, %s head for %d classes",
        type(model).__name__,
        args.model_name_or_path,
        " from scratch" if args.from_scratch else "",
        millions,
        head,
        len(class_names),
    )
    return processor, model


def load_processor(folder: Path) -> ImageProcessor:
    """The image processor that the checkpoint was trained with, torchvision backend (which is not stored, so pinned).

    Raises:
        PipelineError: If the checkpoint has none: its statistics are not guessed.
    """
    try:
        processor: ImageProcessor = AutoImageProcessor.from_pretrained(folder, backend="torchvision")
    except (OSError, ValueError) as error:
        raise PipelineError(f"{folder.name} has no image processor: add a preprocessor_config.json to it") from error
    return processor


def load_strictly(model: PreTrainedModel, folder: Path) -> None:
    """Load every weight of a checkpoint of ours into the model, or fail.

    The stock Trainer loads by file names with `strict=False`; a ViT's file and memory names differ, so most of
    its encoder silently stays as it was (huggingface/transformers#43701). `from_pretrained` converts the names.

    Raises:
        PipelineError: If any weight is missing, left over, or of another shape.
    """
    loaded: Any = type(model).from_pretrained(
        folder,
        dtype=next(model.parameters()).dtype,
        ignore_mismatched_sizes=True,  # else the other shape would be named nowhere but in a log
        output_loading_info=True,
        use_safetensors=True,
    )
    saved, info = loaded
    problems = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if problems:
        raise PipelineError(f"{folder} does not fit the model: {problems}")
    model.load_state_dict(saved.state_dict(), strict=True)


def save_artefact(model: PreTrainedModel, processor: ImageProcessor, folder: Path) -> None:
    """Write config, weights and image processor where `pipeline("image-classification", model=folder)` finds them.

    Into a temporary folder first, then renamed file by file, the config last: without it nothing loads.

    Raises:
        PipelineError: If the folder cannot be written or is full.
    """
    draft = folder / ".artefact"
    try:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
        (draft / "model.safetensors").chmod(0o644)  # safetensors writes 0600, which a server could not read
        for name in reversed(runs.ARTEFACT):
            (draft / name).replace(folder / name)
        draft.rmdir()
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"cannot write the model into {folder}: {reason}") from error


def check_image_size(config: PreTrainedConfig, image_size: int) -> None:
    """Refuse a resolution that the network cannot take.

    Raises:
        PipelineError: If the size is not a positive multiple of the patch size.
    """
    patch = getattr(config, "patch_size", None)
    if patch is None or not isinstance(patch, int):
        raise PipelineError(f"--image_size cannot be changed for a {config.model_type}: leave it out")
    if image_size < patch or image_size % patch:
        near = sorted({max(1, image_size // patch) * patch, max(1, -(-image_size // patch)) * patch})
        raise PipelineError(
            f"--image_size {image_size} is no multiple of the patch size {patch}: try {' or '.join(map(str, near))}"
        )


def resize_positions(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """A copy of the model for another resolution, its position table interpolated (bicubic), all else equal.

    As in the ViT paper, section 3.2; `from_pretrained(image_size=...)` would draw the table at random.

    Args:
        model: With a learnt table of shape (1, prefix + height x width, hidden), a square grid.
        image_size: New side in pixels.

    Raises:
        PipelineError: If the model has no such table.
    """
    config = copy.deepcopy(model.config)
    config.image_size = image_size
    resized: PreTrainedModel = type(model)(config)
    weights = model.state_dict()
    tables = [name for name in weights if name.endswith(POSITION_TABLE)]
    if len(tables) != 1:
        raise PipelineError(f"--image_size cannot be changed for a {config.model_type}: it has no position table")
    old = weights[tables[0]]
    side = resized.config.image_size // config.patch_size
    old_side = model.config.image_size // config.patch_size
    prefix, grid = old[:, : -(old_side**2)], old[:, -(old_side**2) :]
    grid = grid.reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    weights[tables[0]] = torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)
    resized.load_state_dict(weights, strict=True)
    logger.info("position table interpolated: %dx%d -> %dx%d", old_side, old_side, side, side)
    return resized


def set_input_size(processor: ImageProcessor, image_size: int) -> None:
    """Make the processor produce squares of `image_size`; where it crops, the resize keeps its ratio to the crop."""
    old, size = processor.size, {"height": image_size, "width": image_size}
    if getattr(processor, "do_center_crop", False):
        ratio = image_size / processor.crop_size["height"]
        old = {side: round(pixels * ratio) for side, pixels in dict(old).items()}
        processor.crop_size, processor.size = size, old
    else:
        processor.size = {"shortest_edge": image_size} if "shortest_edge" in old else size


def _labels(class_names: Sequence[str]) -> dict[str, Any]:
    """What a config says of the classes."""
    return {
        "num_labels": len(class_names),
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: i for i, name in enumerate(class_names)},
        "problem_type": "single_label_classification",  # else the first batch of another type decides, and is saved
    }


def _from_scratch(config: PreTrainedConfig, image_size: int | None, class_names: Sequence[str]) -> PreTrainedModel:
    """The architecture with random weights."""
    config.update(_labels(class_names) | ({"image_size": image_size} if image_size else {}))
    model: PreTrainedModel = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    return model


def _from_checkpoint(
    folder: Path, config: PreTrainedConfig, name: str, class_names: Sequence[str]
) -> tuple[PreTrainedModel, str]:
    """The model with its checkpoint's backbone, and whose its head is."""
    model, info = _read(
        AutoModelForImageClassification,
        folder,
        **_labels(class_names),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        use_safetensors=True,
    )
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if backbone := sorted(key for key in absent if key.startswith(f"{model.base_model_prefix}.")):
        raise PipelineError(
            f"{name} does not fit a {type(model).__name__}: it lacks {len(backbone)} weights, first {backbone[0]}"
        )
    trained_for: dict[Any, str] = config.id2label or {}
    if not absent and [trained_for.get(i) for i in range(len(trained_for))] == list(class_names):
        return model, "the checkpoint's"
    if not absent:  # as many classes, but others: the head of the old ones would stay
        _draw_anew(model, _head_of(model))
    return model, "new"


def _head_of(model: PreTrainedModel) -> nn.Module:
    """Everything outside the backbone."""
    return nn.ModuleList(m for name, m in model.named_children() if name != model.base_model_prefix)


def _draw_anew(model: PreTrainedModel, part: nn.Module) -> None:
    """Initialise a part of a loaded model as a new model would."""
    for weight in part.parameters():
        vars(weight).pop("_is_hf_initialized", None)  # with this mark, `_init_weights` leaves it as it was loaded
    part.apply(model._init_weights)


def _read(auto: Any, folder: Path, **options: Any) -> Any:
    """`from_pretrained` of an Auto class, with one line for what a user can mend."""
    try:
        return auto.from_pretrained(folder, **options)
    except OSError as error:
        raise PipelineError(f"{folder.name} has no safetensors weights: add --from_scratch, or name another") from error
    except SafetensorError as error:
        raise PipelineError(f"the weights of {folder.name} are damaged ({error}): get them again") from error
    except (ValueError, KeyError) as error:
        raise PipelineError(f"{folder.name} is no image classifier: {' '.join(str(error).split())[:200]}") from error
