"""Frozen features: the network runs once over every image, and its features are cached on disk."""

import importlib.metadata
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from pipeline import distributed
from pipeline.errors import PipelineError
from pipeline.images.identity import content_key
from pipeline.images.transforms import EvalTransform
from pipeline.models.checkpoint import is_timm
from pipeline.models.classifier import ImageClassifier
from pipeline.models.head import no_linear_head
from pipeline.models.inference import LoaderOptions, run_inference
from pipeline.models.resolution import patch_size
from pipeline.performance.device import Precision, pick_device
from pipeline.runs.files import atomic_write

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

_VERSION = 1  # increase it with any change to what is stored
_PACKAGES = ("torch", "torchvision", "transformers", "timm", "pillow")  # another version computes other numbers
_NOT_THE_BACKBONE = frozenset({
    "id2label", "label2id", "num_labels", "num_classes", "label_names", "problem_type", "architectures",
    "_name_or_path", "transformers_version", "use_cache",  # the Trainer sets the last one
})  # fmt: skip


@dataclass(frozen=True)
class Features:
    """Frozen features of one split.

    Attributes:
        by_kind: Kind -> array (images, width). `head` is what the head of the network reads. A ViT also has
            `class_token` and `patch_mean`, from the last hidden state.
    """

    by_kind: Mapping[str, Array]

    @property
    def head(self) -> Array:
        """What the head of the network reads."""
        return self.by_kind["head"]

    @property
    def class_token_and_patches(self) -> Array:
        """The class token concatenated with the mean patch; `head` if the network has no class token."""
        if "class_token" not in self.by_kind:
            return self.head
        return np.concatenate([self.by_kind["class_token"], self.by_kind["patch_mean"]], axis=1)


def extract(
    classifier: ImageClassifier,
    splits: Mapping[str, datasets.Dataset],
    options: LoaderOptions,
    *,
    precision: Precision,
    mirrored: bool = False,
    keep: bool = True,
) -> dict[str, Features]:
    """Return the features of every image of the splits, in order, from the cache if they were computed before.

    The cache is keyed on everything that the features depend on: weights, image processor, precision, library versions,
    device and images. The network and the global random generator are left as they were. All ranks must call it.

    Args:
        classifier: The network. Its head must be linear.
        splits: Name -> rows with `image`, `label` and `index`.
        options: How the images are loaded.
        precision: What the forward passes compute in.
        mirrored: Whether left and right of the images are exchanged.
        keep: Whether features that are computed now are cached.

    Raises:
        PipelineError: If the head is not a single linear layer, an image cannot be read, or a feature is not finite.
    """
    paths = _cache_paths(classifier, splits, precision=precision, mirrored=mirrored)
    features: dict[str, Features] = {}
    writable = keep
    for name, split in splits.items():
        if (cached := _read_on_all(paths[name], name, split)) is not None:
            features[name] = cached
            continue
        batches = run_inference(
            classifier.model,
            split.with_transform(EvalTransform(classifier.processor)),
            lambda batch: _features_of_batch(
                classifier, batch["pixel_values"].flip(-1) if mirrored else batch["pixel_values"], precision
            ),
            options,
            description=f"features of {name}",
            precision=precision,
        )
        features[name] = Features({kind: np.concatenate([batch[kind] for batch in batches]) for kind in batches[0]})
        if distributed.is_main_process() and writable:
            writable = _write(paths[name], features[name])
    return features


def read_cached(
    classifier: ImageClassifier, split: datasets.Dataset, *, name: str, precision: Precision
) -> Features | None:
    """Return the features of a split if `extract` computed and cached them, or None. All ranks must call it.

    Args:
        classifier: The network. Its head must be linear.
        split: Rows with `image`, `label` and `index`.
        name: Name of the split.
        precision: What the forward passes computed in.

    Raises:
        PipelineError: If the head is not a single linear layer.
    """
    paths = _cache_paths(classifier, {name: split}, precision=precision, mirrored=False)
    return _read_on_all(paths[name], name, split)


def _read_on_all(path: Path, name: str, split: datasets.Dataset) -> Features | None:
    """Return the cached features if every rank can read them: one on another machine may not see the file."""
    cached = _read(path, images=len(split))
    if not all(distributed.all_gather(cached is not None)):
        return None
    logger.info("%s: read the features of %d images from the cache", name, len(split))
    return cached


def _features_of_batch(classifier: ImageClassifier, pixels: Tensor, precision: Precision) -> dict[str, Array]:
    kinds = _forward(classifier, pixels)
    if not all(feature.isfinite().all() for feature in kinds.values()):
        wider = "bf16" if precision == "fp16" else "fp32"
        raise PipelineError(
            f"the frozen features are not finite in {precision}: pass --precision {wider}, or use another model"
        )
    return {kind: feature.float().cpu().numpy() for kind, feature in kinds.items()}


def _forward(classifier: ImageClassifier, pixels: Tensor) -> dict[str, Tensor]:
    """Return the features (batch, width) of images (batch, 3, height, width), by kind."""
    model: Any = classifier.model
    seen: dict[str, Any] = {}

    def record_head(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["head"], seen["output"] = inputs[0], output

    def record_tokens(_: nn.Module, __: Any, output: Any) -> None:
        seen["tokens"] = getattr(output, "last_hidden_state", seen.get("tokens"))

    hooks = [classifier.head.register_forward_hook(record_head)]
    hooks += [child.register_forward_hook(record_tokens) for child in model.children()]
    try:
        if is_timm(model.config):  # none of its modules returns a `last_hidden_state`
            seen["tokens"] = model.timm_model.forward_features(pixels)
            logits = model.timm_model.forward_head(seen["tokens"])
        else:
            logits = model(pixel_values=pixels).logits
    finally:
        for hook in hooks:
            hook.remove()
    if seen["head"].ndim != 2 or not torch.equal(seen["output"].nan_to_num(), logits.nan_to_num()):
        raise no_linear_head(model, "its logits are not the output of its last linear layer")
    if prefix := _num_prefix_tokens(model, pixels, seen.get("tokens")):
        tokens = seen["tokens"]
        return {"head": seen["head"], "class_token": tokens[:, 0], "patch_mean": tokens[:, prefix:].mean(1)}
    return {"head": seen["head"]}


def _num_prefix_tokens(model: Any, pixels: Tensor, tokens: Any) -> int:
    """Return the number of tokens, class token first, in front of the patches; 0 if there is no class token."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        return 0
    if is_timm(model.config):
        network = model.timm_model
        return network.num_prefix_tokens if getattr(network, "cls_token", None) is not None else 0
    patch = patch_size(model.config)
    return max(0, tokens.shape[1] - (pixels.shape[2] // patch) * (pixels.shape[3] // patch))


def _cache_paths(
    classifier: ImageClassifier, splits: Mapping[str, datasets.Dataset], *, precision: Precision, mirrored: bool
) -> dict[str, Path]:
    """Return the cache file of each split. Its name is a hash of everything that the features depend on."""
    with distributed.fail_together():
        assert classifier.head is not None  # raises before anything is computed
        keys: dict[str, str] = {}
        if distributed.is_main_process():
            network = network_key(classifier, precision=precision)
            keys = {name: f"{network}-{content_key(split)}" for name, split in splits.items()}
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "vit-pipeline" / "features"
    suffix = "-mirrored" if mirrored else ""
    return {name: folder / f"{key}{suffix}.safetensors" for name, key in distributed.broadcast(keys).items()}


def network_key(classifier: ImageClassifier, *, precision: str) -> str:
    """Return a hash of everything that the features of an image depend on: weights, processor, versions, device."""
    model = classifier.model
    settings = {
        "version": _VERSION,
        "packages": {package: _installed_version(package) for package in _PACKAGES},
        "device": str(pick_device()),
        "precision": precision,
        "class": type(model).__name__,
        "attention": model.config._attn_implementation,
        "config": {key: value for key, value in model.config.to_dict().items() if key not in _NOT_THE_BACKBONE},
        "processor": classifier.processor.to_dict(),
    }
    network = xxhash.xxh3_128(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        if name not in classifier.head_names:
            network.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
            network.update(weight.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return network.hexdigest()


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: Path, *, images: int) -> Features | None:
    """Return the cached features if they are there and intact."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {kind: file.get_tensor(kind) for kind in sorted(file.keys())}
            checksum = (file.metadata() or {}).get("checksum")
    except (SafetensorError, OSError, ValueError, TypeError):
        arrays, checksum = {}, None
    if "head" in arrays and checksum == _checksum(arrays) and {len(array) for array in arrays.values()} == {images}:
        return Features(arrays)
    logger.info("%s is corrupt; computing the features again", path)
    return None


def _write(path: Path, features: Features) -> bool:
    """Cache the features; return False, with a warning, if that is not possible."""
    arrays = {kind: np.ascontiguousarray(array) for kind, array in sorted(features.by_kind.items())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            save_file(arrays, temporary, metadata={"checksum": _checksum(arrays)})
    except (OSError, SafetensorError, PipelineError) as error:
        reason = str(error).removeprefix(f"cannot write {path}: ")
        logger.warning(
            "features cannot be cached in %s (%s): set HF_DATASETS_CACHE to a writable folder with free space",
            path.parent,
            getattr(error, "strerror", None) or reason,
        )
        return False
    return True


def _checksum(arrays: Mapping[str, Array]) -> str:
    digest = xxhash.xxh3_128()
    for kind, array in arrays.items():
        digest.update(f"{kind} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
