"""Model files on disk: read with an explanation of what is wrong with them, loaded strictly, written."""

import contextlib
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from pipeline.errors import PipelineError
from pipeline.images.processor import ImageProcessor
from pipeline.runs.folder import MODEL_FILES

logger = logging.getLogger(__name__)


def read_processor(folder: Path, *, name: str) -> ImageProcessor:
    """The image processor that the checkpoint was trained with, torchvision backend (which is not stored, so pinned).

    Args:
        folder: With a preprocessor_config.json, or the config.json of a timm model, which says as much.
        name: Of the model, as the user knows it.

    Raises:
        PipelineError: If the checkpoint has none: its statistics are not guessed.
    """
    try:
        with explain_load_errors(name):
            processor: Any = AutoImageProcessor.from_pretrained(folder, backend="torchvision", trust_remote_code=False)
    except PipelineError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        raise PipelineError(
            f"{name} has no image processor: add the preprocessor_config.json of the model that it was made from, "
            "or name a model that has one"
        ) from error
    if hasattr(processor, "data_config"):
        _describe_timm(processor)
    return processor  # type: ignore[no-any-return]


def _describe_timm(processor: Any) -> None:
    """Say in the names of transformers what a timm processor does; it works from its own `data_config`."""
    data = processor.data_config
    _, height, width = data["input_size"]
    processor.size = {"height": height, "width": width}
    processor.do_center_crop = False  # its own crop is part of what makes images of that size
    known = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    processor.resample = known.get(data["interpolation"], Image.Resampling.BICUBIC)  # of what torchvision can
    processor.do_rescale, processor.rescale_factor = True, 1 / 255
    processor.do_normalize = True
    processor.image_mean, processor.image_std = list(data["mean"]), list(data["std"])


SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TRUNCATED_PICKLE = ("PytorchStreamReader", "corrupt file")  # what torch says of one, in a plain RuntimeError


def read_config(folder: Path, *, name: str) -> PreTrainedConfig:
    """The config of a checkpoint, for one of the families that transformers can classify images with.

    Args:
        folder: With a config.json.
        name: Of the model, as the user knows it.

    Raises:
        PipelineError: If it is of another family, or of timm where that is not installed.
    """
    with explain_load_errors(name):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise PipelineError(
            f"{name}: transformers has no image classifier of the type {config.model_type}: name another"
        )
    if is_timm(config) and config.model_args:
        # timm 1.0.31 writes the number of classes there too, and then TimmWrapper hands it over twice.
        config.model_args = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    return config


def is_timm(config: PreTrainedConfig) -> bool:
    """Whether the network is timm's, wrapped by transformers."""
    return bool(config.model_type == "timm_wrapper")


def read_model(folder: Path, config: PreTrainedConfig, *, name: str) -> tuple[PreTrainedModel, set[str]]:
    """An image classifier with the weights of a checkpoint, in fp32.

    Args:
        folder: With safetensors, or else with a pickle, of which only tensors are read.
        config: What to build: from `read_config`, perhaps with other labels.
        name: Of the model, as the user knows it.

    Returns:
        The model; names of its weights that the files lack or have in another shape, which were drawn.

    Raises:
        PipelineError: If there are no weights, they are damaged, or the model is no image classifier.
    """
    pickled = not any((folder / file).exists() for file in SAFE_WEIGHTS)
    if pickled and not any((folder / file).exists() for file in PICKLED_WEIGHTS):
        raise PipelineError(
            f"{name} has no weights (model.safetensors): name another model, or train this one with --from_scratch"
        )
    if pickled:
        logger.info("%s: its weights are a pickle (.bin), read with weights_only", name)
    with explain_load_errors(name), _explain_weight_errors(name):
        loaded: Any = AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # the caller says which weights may be made anew
            output_loading_info=True,
            weights_only=True,
            trust_remote_code=False,
        )
    model, info = loaded
    return model, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def load_strictly(model: PreTrainedModel, folder: Path) -> None:
    """Load every weight and buffer of a checkpoint of ours into the model, or fail.

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


def save_model(model: PreTrainedModel, processor: ImageProcessor, folder: Path) -> None:
    """Write config, weights and image processor where `pipeline("image-classification", model=folder)` finds them.

    Into a temporary folder first, then renamed file by file, the config last: without it nothing loads.

    Raises:
        PipelineError: If the folder cannot be written or is full.
    """
    draft = folder / ".artefact"
    try:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
        if is_timm(model.config):  # its processor saves nothing: it is made from config.json, and this shows what it is
            cast(BaseImageProcessor, processor).to_json_file(draft / "preprocessor_config.json")
        (draft / "model.safetensors").chmod(0o644)  # safetensors writes 0600, which a server could not read
        for name in reversed(MODEL_FILES):
            (draft / name).replace(folder / name)
        draft.rmdir()
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"cannot write the model into {folder}: {reason}") from error


@contextlib.contextmanager
def explain_load_errors(name: str) -> Iterator[None]:
    """Turn what `from_pretrained` raises into one line for what a user can mend."""
    try:
        yield
    except ImportError as error:  # it says itself what to install
        raise PipelineError(f"{name}: {_one_line(error).partition(' Please note')[0]}") from error
    except (OSError, ValueError, KeyError) as error:
        raise PipelineError(f"{name} is no image classifier: {_one_line(error)[:200]}") from error


@contextlib.contextmanager
def _explain_weight_errors(name: str) -> Iterator[None]:
    """Turn what comes of a file of weights that is not whole, or is no such file, into one line."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise PipelineError(
            f"the weights of {name} are a pickle that is damaged or holds more than tensors, so it is not loaded: "
            "name a model with safetensors"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _TRUNCATED_PICKLE):
            raise
        raise PipelineError(f"the weights of {name} are damaged ({_one_line(error)[:100]}): get them again") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
