"""Frozen features: the network run once over every image, as it is scored, and kept for the next time.

What is done with them belongs to `probe`.
"""

import contextlib
import importlib.metadata
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from pipeline import distributed
from pipeline.errors import PipelineError
from pipeline.images.identity import content_key
from pipeline.images.processor import ImageProcessor
from pipeline.images.transforms import EvalTransform, collate
from pipeline.models.checkpoint import is_timm
from pipeline.models.head import _unsuitable, find_head, head_names
from pipeline.models.resolution import patch_size
from pipeline.runs.files import atomic_write

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
Array = NDArray[np.float32]

_VERSION = 1  # raise it with any change to what is kept
_PACKAGES = ("torch", "torchvision", "transformers", "timm", "pillow")  # another version gives other numbers
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NOT_THE_BACKBONE = frozenset({
    "id2label", "label2id", "num_labels", "num_classes", "label_names", "problem_type", "architectures",
    "_name_or_path", "transformers_version",
})  # fmt: skip


@dataclass(frozen=True)
class Features:
    """Features of one split by kind, each (images, width): `head`, and of a ViT `class_token` and `patch_mean`.

    `head` is what the network's own head reads. The tokens are the last hidden state's.
    """

    by_kind: Mapping[str, Array]

    @property
    def head(self) -> Array:
        """What the network's own head reads."""
        return self.by_kind["head"]

    @property
    def both(self) -> Array:
        """Class token beside mean patch; what the head reads where the network has no class token."""
        if "class_token" not in self.by_kind:
            return self.head
        return np.concatenate([self.by_kind["class_token"], self.by_kind["patch_mean"]], axis=1)


def extract(
    model: PreTrainedModel,
    processor: ImageProcessor,
    splits: Mapping[str, datasets.Dataset],
    *,
    precision: Precision,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> dict[str, Features]:
    """The features of every image of the splits, in their order; read where they were computed before.

    They are kept in the cache of `datasets`, under all that they depend on: weights, processor, precision, library
    versions, device and images. The network is left as it was, and so is torch's random generator. Several processes
    deal out the batches that one would make.

    Raises:
        PipelineError: If the head of the network is no single linear layer, an image cannot be read, or a feature
            is not finite.
    """
    with distributed.fail_together():
        find_head(model)
        keys = _keys(model, processor, splits, precision=precision) if distributed.is_main_process() else {}
    keys = distributed.all_gather(keys)[0]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "vit-pipeline" / "features"
    features: dict[str, Features] = {}
    writable = True
    for name, split in splits.items():
        path = folder / f"{keys[name]}.safetensors"
        found = _read(path, images=len(split))
        # All or none: another machine may not see the file.
        if all(distributed.all_gather(found is not None)) and found is not None:
            logger.info("%s: features of %d images read from the cache", name, len(split))
            features[name] = found
            continue
        rows = split.with_transform(EvalTransform(processor))
        batches = [list(range(start, min(start + batch_size, len(rows)))) for start in range(0, len(rows), batch_size)]
        loader = DataLoader(
            rows,
            batch_sampler=distributed.shard(batches),
            num_workers=num_workers,
            collate_fn=collate,
            generator=torch.Generator(),  # else it would draw from the one that training draws from
        )
        shown = progress and distributed.is_main_process()
        bar = tqdm(loader, desc=f"features of {name}", unit="batch", disable=not shown, leave=False)
        with distributed.fail_together():
            share = _run(model, bar, precision=precision)
        parts = distributed.all_gather_shards(share)
        features[name] = Features({kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]})
        if distributed.is_main_process() and writable:
            writable = _write(path, features[name])
    return features


def _run(model: PreTrainedModel, batches: tqdm, *, precision: Precision) -> list[dict[str, Array]]:
    """The features of each batch, by kind."""
    share = []
    with _in_evaluation(model) as device, torch.no_grad():  # some networks keep a tensor of their first forward
        for batch in batches:
            pixels = batch["pixel_values"].to(device)
            with torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32"):
                kinds = _forward(model, pixels)
            if not all(feature.isfinite().all() for feature in kinds.values()):
                raise PipelineError(
                    f"the frozen network gives features that are not finite in {precision}: pass --precision "
                    f"{'bf16' if precision == 'fp16' else 'fp32'}, or name another model"
                )
            share.append({kind: feature.float().cpu().numpy() for kind, feature in kinds.items()})
    return share


def _forward(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """The features (batch, width) of images (batch, 3, height, width), by kind."""
    seen: dict[str, Any] = {}

    def keep_head(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["head"], seen["output"] = inputs[0], output

    def keep_tokens(_: nn.Module, __: Any, output: Any) -> None:
        seen["tokens"] = getattr(output, "last_hidden_state", seen.get("tokens"))

    hooks = [find_head(model).register_forward_hook(keep_head)]
    hooks += [child.register_forward_hook(keep_tokens) for child in model.children()]
    try:
        if is_timm(model.config):  # none of its modules tells its tokens
            seen["tokens"] = model.timm_model.forward_features(pixels)
            logits = model.timm_model.forward_head(seen["tokens"])
        else:
            logits = model(pixel_values=pixels).logits
    finally:
        for hook in hooks:
            hook.remove()
    if seen["head"].ndim != 2 or not torch.equal(seen["output"].nan_to_num(), logits.nan_to_num()):
        raise _unsuitable(model, "its logits are not what its last linear layer gives")
    if prefix := _prefix(model, pixels, seen.get("tokens")):
        tokens = seen["tokens"]
        return {"head": seen["head"], "class_token": tokens[:, 0], "patch_mean": tokens[:, prefix:].mean(1)}
    return {"head": seen["head"]}


def _prefix(model: Any, pixels: Tensor, tokens: Any) -> int:
    """How many tokens, the class token first, stand in front of a grid of patches; 0 where this is not so."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        return 0
    if is_timm(model.config):
        network = model.timm_model
        return network.num_prefix_tokens if getattr(network, "cls_token", None) is not None else 0
    patch = patch_size(model.config)
    return max(0, tokens.shape[1] - (pixels.shape[2] // patch) * (pixels.shape[3] // patch))


@contextlib.contextmanager
def _in_evaluation(model: PreTrainedModel) -> Iterator[torch.device]:
    """The network in evaluation, on a GPU if there is one; afterwards as it was."""
    network: Any = model  # whose `to` has lost its type in a decorator
    home, modes = model.device, {module: module.training for module in model.modules()}
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        network.eval().to(device)
        yield device or home
    finally:
        network.to(home)
        for module, mode in modes.items():
            module.training = mode


def _keys(
    model: PreTrainedModel, processor: Any, splits: Mapping[str, datasets.Dataset], *, precision: Precision
) -> dict[str, str]:
    """Under which name each split's features are kept: a hash of everything that they depend on."""
    installed = {package.metadata["Name"].lower(): package.version for package in importlib.metadata.distributions()}
    settings = {
        "version": _VERSION,
        "packages": {package: installed.get(package) for package in _PACKAGES},
        "device": str(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"),
        "precision": precision,
        "class": type(model).__name__,
        "attention": model.config._attn_implementation,
        "config": {key: value for key, value in model.config.to_dict().items() if key not in _NOT_THE_BACKBONE},
        "processor": processor.to_dict(),
    }
    network = xxhash.xxh3_128(json.dumps(settings, sort_keys=True, default=str).encode())
    head = head_names(model)
    for name, weight in sorted(model.state_dict().items()):
        if name not in head:
            network.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
            network.update(weight.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return {name: f"{network.hexdigest()}-{content_key(split)}" for name, split in splits.items()}


def _read(path: Path, *, images: int) -> Features | None:
    """What was kept, if it is there and whole."""
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
    logger.info("%s is damaged: the features are computed again", path)
    return None


def _write(path: Path, features: Features) -> bool:
    """Keep the features; say so where that is not possible."""
    arrays = {kind: np.ascontiguousarray(array) for kind, array in sorted(features.by_kind.items())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            save_file(arrays, temporary, metadata={"checksum": _checksum(arrays)})
    except (OSError, SafetensorError, PipelineError) as error:
        reason = str(error).removeprefix(f"cannot write {path}: ")
        logger.warning(
            "features are not kept for the next run, in %s (%s): set HF_DATASETS_CACHE to a folder with room",
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
