"""Model files of a folder: read with explained errors, loaded strictly, and written."""

import contextlib
import copy
import logging
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
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

from pipeline.errors import PipelineError, list_some
from pipeline.images import depth
from pipeline.images.processor import ImageProcessor
from pipeline.models import uncertainty
from pipeline.models.pooled import backbone
from pipeline.models.pooled.network import PooledConfig
from pipeline.runs.files import flush, read_json, set_permissions
from pipeline.runs.folder import MODEL_FILES

logger = logging.getLogger(__name__)

SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_MAX_WEIGHTS_PER_BYTE = 2  # of 4 bits
_NEW_WEIGHTS = 50_000_000  # that a checkpoint may lack, such as a head

# torch raises a plain RuntimeError for a truncated pickle. Its message contains one of these texts.
_TRUNCATED_PICKLE = ("PytorchStreamReader", "corrupt file")


def read_processor(folder: Path, *, name: str) -> ImageProcessor:
    """Load the image processor of a checkpoint.

    The backend is not stored in the checkpoint, so it is always torchvision.

    Args:
        folder: Contains a preprocessor_config.json, or the config.json of a timm model, which has the same information.
        name: Name of the model as the user gave it, for the messages.

    Raises:
        PipelineError: If the checkpoint has no image processor. Guessing mean and std would silently lower accuracy.
    """
    try:
        with explain_load_errors(name):
            processor: Any = AutoImageProcessor.from_pretrained(folder, backend="torchvision", trust_remote_code=False)
    except PipelineError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        raise PipelineError(
            f"{name} has no image processor: add the preprocessor_config.json of its original model, "
            "or use a model that has one"
        ) from error
    if hasattr(processor, "data_config"):
        _set_timm_attributes(processor)
        # The class reads config.json only, and `save_model` writes this file for it.
        if (saved := folder / "preprocessor_config.json").exists():
            depth.set_depth(processor, read_json(saved).get(depth.KEY))
    return processor  # type: ignore[no-any-return]


def _set_timm_attributes(processor: Any) -> None:
    """Set the attributes that transformers' processors have on a timm processor, which only uses `data_config`."""
    data = processor.data_config
    _, height, width = data["input_size"]
    processor.size = {"height": height, "width": width}
    processor.do_center_crop = False  # timm's transforms include a crop, and `size` is the result of it
    resampling = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    # torchvision does not support timm's other interpolations, so they become bicubic.
    processor.resample = resampling.get(data["interpolation"], Image.Resampling.BICUBIC)
    processor.do_rescale, processor.rescale_factor = True, 1 / 255
    processor.do_normalize = True
    processor.image_mean, processor.image_std = list(data["mean"]), list(data["std"])


def read_config(folder: Path, *, name: str) -> PreTrainedConfig:
    """Load the config of a checkpoint as that of an image classifier: its own class, or a pooled head on its backbone.

    Args:
        folder: Contains a config.json.
        name: Name of the model as the user gave it, for the messages.

    Raises:
        PipelineError: If the model type is not supported, or if the model needs timm and timm is not installed.
    """
    with explain_load_errors(name):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES and not isinstance(config, PooledConfig):
        config = backbone.as_classifier(config, name=name)
    if is_timm(config) and config.model_args:
        # timm 1.0.31 also writes the number of classes into model_args, and TimmWrapper would then pass it twice.
        config.model_args = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    if not is_timm(config):  # timm builds by name
        _require_buildable(config, folder, name=name)
    # It describes the saved weights and `ImageClassifier.load` reads it. A network that is trained further loses it.
    vars(config).pop(uncertainty.KEY, None)
    return config


def _require_buildable(config: PreTrainedConfig, folder: Path, *, name: str) -> None:
    """Check that the network of a config can be built, and is not larger than its weights, without allocating it.

    Raises:
        PipelineError: If it cannot be built, or has more weights than the files can hold.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = AutoModelForImageClassification.from_config(copy.deepcopy(config), trust_remote_code=False)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise PipelineError(
            f"config.json of {name} describes a network that cannot be built ({type(error).__name__}: "
            f"{_one_line(error)[:150]}): use another model"
        ) from error
    size = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    count = sum(weight.numel() for weight in network.parameters())
    if size and count > _MAX_WEIGHTS_PER_BYTE * size + _NEW_WEIGHTS:
        raise PipelineError(
            f"config.json of {name} describes a network of {count:,} weights, and its files have {size:,} bytes only: "
            "use the config.json of these weights"
        )


def is_timm(config: PreTrainedConfig) -> bool:
    """Return whether the network is a timm model that transformers wraps."""
    return bool(config.model_type == "timm_wrapper")


def family(config: PreTrainedConfig) -> str:
    """Return the name of the architecture of a network; with a pooled head, that of its backbone."""
    if is_timm(config):
        return str(config.architecture)
    backbone_config: Any = config.vision_config if isinstance(config, PooledConfig) else config
    return str(backbone_config.model_type)


def read_model(folder: Path, config: PreTrainedConfig, *, name: str) -> tuple[PreTrainedModel, set[str]]:
    """Load an image classifier with the weights of a checkpoint, in fp32.

    Args:
        folder: Contains safetensors weights, or pickled weights, from which only tensors are loaded.
        config: Architecture to build: the result of `read_config`, possibly with other labels.
        name: Name of the model as the user gave it, for the messages.

    Returns:
        The model, and the names of the weights that are initialized at random because the checkpoint does not have
        them or has them in another shape.

    Raises:
        PipelineError: If the weights are missing or corrupt, or if the model is not an image classifier.
    """
    pickled = not any((folder / file).exists() for file in SAFE_WEIGHTS)
    if pickled and not any((folder / file).exists() for file in PICKLED_WEIGHTS):
        raise PipelineError(
            f"{name} has no weights (model.safetensors): use another model, or train this one with --from_scratch"
        )
    if pickled:
        logger.info("%s has pickled weights (.bin); loading them with weights_only=True", name)
    names = backbone.renamed_weights(str(read_json(folder / "config.json").get("model_type")), config)
    with explain_load_errors(name), _explain_weight_errors(name):
        loaded: Any = AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # the caller decides which weights may be initialized at random
            output_loading_info=True,
            weights_only=True,
            trust_remote_code=False,
            key_mapping=names or None,
        )
    model, info = loaded
    if names:
        model._weight_conversions = None  # otherwise it would be saved with the names of its checkpoint
    return model, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def load_strictly(model: PreTrainedModel, folder: Path) -> None:
    """Load every weight and buffer of a saved checkpoint into the model, in place.

    The stock Trainer matches the names in the file with `strict=False`. A ViT has other names in its file than in
    memory, so the stock Trainer silently restores only a part of it (huggingface/transformers#43701).
    `from_pretrained` converts the names.

    Raises:
        PipelineError: If a weight is missing, unexpected or of another shape. The model is then unchanged.
    """
    loaded: Any = type(model).from_pretrained(
        folder,
        dtype=next(model.parameters()).dtype,
        ignore_mismatched_sizes=True,  # reports a mismatched shape in the loading info, not only in a log line
        output_loading_info=True,
        use_safetensors=True,
    )
    saved, info = loaded
    problems = [
        f"{kind} {list_some(sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys))}"
        for kind, keys in info.items()
        if keys
    ]
    if problems:
        raise PipelineError(f"{folder} does not match the model ({'; '.join(problems)}): choose another --output_dir")
    model.load_state_dict(saved.state_dict(), strict=True)


def save_model(model: PreTrainedModel, processor: ImageProcessor, folder: Path) -> None:
    """Write config, weights and image processor so that `pipeline("image-classification", model=folder)` loads them.

    The files are written to a temporary folder and then renamed one by one. config.json is renamed last, because
    nothing loads without it.

    Raises:
        PipelineError: If the folder cannot be written or the disk is full.
    """
    temporary = folder / ".artefact"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a command that was killed
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        if is_timm(model.config):
            # A timm processor saves no file, because it is created from config.json. Write one for other readers.
            cast(BaseImageProcessor, processor).to_json_file(temporary / "preprocessor_config.json")
        for name in reversed(MODEL_FILES):
            set_permissions(temporary / name)
            flush(temporary / name)
            (temporary / name).replace(folder / name)
        shutil.rmtree(temporary)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error if the disk is full
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"cannot write the model to {folder}: {reason}") from error


@contextlib.contextmanager
def explain_load_errors(name: str) -> Iterator[None]:
    """Convert the errors of `from_pretrained` that the user can fix to a `PipelineError` of one line."""
    try:
        yield
    except ImportError as error:  # its message already says which package to install
        raise PipelineError(f"{name}: {_one_line(error).partition(' Please note')[0]}") from error
    except (OSError, ValueError, LookupError, AttributeError, TypeError, StrictDataclassError) as error:
        raise PipelineError(f"cannot load {name} as an image classifier: {_one_line(error)[:200]}") from error


@contextlib.contextmanager
def _explain_weight_errors(name: str) -> Iterator[None]:
    """Convert the errors that a corrupt or unsafe weights file causes to a `PipelineError` of one line."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise PipelineError(
            f"the pickled weights of {name} are corrupt or contain more than tensors: "
            "use a model with safetensors weights"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in _TRUNCATED_PICKLE):
            raise
        raise PipelineError(
            f"the weights of {name} are corrupt ({_one_line(error)[:100]}): download them again"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
