"""Findings about the environment: packages, device, shared memory and disk."""

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from packaging.requirements import Requirement
from transformers.utils.versions import require_version

from pipeline.arguments.settings import Settings
from pipeline.diagnosis.finding import Finding
from pipeline.performance.machine import usable_cores
from pipeline.runs.checkpoints import KEPT_WHILE_TRAINING

SUBJECT = "environment"
PACKAGE = "vit-pipeline"

_SHARED_MEMORY = Path("/dev/shm")
_BYTES_PER_PIXEL_VALUE = 4
_BATCHES_PER_WORKER = 3  # two prefetched ones, and one that is being made
_BYTES_PER_FROZEN_WEIGHT = 4  # most weights have no moments with LoRA or frozen blocks
_BYTES_PER_WEIGHT = 12  # of a checkpoint: the fp32 weight, and the two moments of AdamW


def environment(settings: Settings) -> Iterator[Finding]:
    """Yield the findings about packages, device and network."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "transformers", "pillow")}
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    args = settings.trainer
    yield Finding("ok", SUBJECT, f"Python {platform.python_version()}, {named}")
    yield Finding("ok", SUBJECT, f"{args.describe()}; {usable_cores()} cores")
    yield from unmet_requirements()
    yield from _operators()
    if torch.version.cuda is not None and not torch.cuda.is_available():
        yield Finding(
            "note",
            SUBJECT,
            f"torch supports CUDA {torch.version.cuda}, but finds no GPU; training on {args.device.type}",
        )
    if any(
        os.environ.get(name, "0").lower() in ("1", "true", "on", "yes")
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    ):
        yield Finding("note", SUBJECT, "the Hub is offline (HF_HUB_OFFLINE); only cached models and datasets are found")


def unmet_requirements(package: str = PACKAGE) -> Iterator[Finding]:
    """Yield an error for each installed package whose version this package does not support."""
    try:
        requirements = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:  # it runs from its source tree
        return
    for text in requirements:
        needed, _, marker = (part.strip() for part in text.partition(";"))
        if marker:  # of an extra
            continue
        try:
            require_version(needed)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("error", SUBJECT, f"{needed} is not installed", f'run `pip install "{needed}"`')
        except ImportError:
            found = importlib.metadata.version(re.split(r"[<>=!~ ]", needed)[0])
            yield Finding("error", SUBJECT, f"{needed} is needed, not {found}", f'run `pip install "{needed}"`')


def missing_extras(package: str = PACKAGE) -> Iterator[Finding]:
    """Yield a note with the extras of this package that are not installed."""
    try:
        needed = [Requirement(text) for text in importlib.metadata.requires(package) or []]
    except importlib.metadata.PackageNotFoundError:  # it runs from its source tree
        return
    missing = dict[str, None]()
    for each in needed:
        extra = re.search(r"extra == ['\"](\w+)['\"]", str(each.marker or ""))
        if extra and extra[1] != "dev" and _version(each.name) is None:
            missing[extra[1]] = None
    if missing:
        yield Finding("note", SUBJECT, f"optional extras that are not installed: {', '.join(missing)}")


def rejected_version(package: str = "pillow") -> Iterator[Finding]:
    """Yield a warning for each installed package that does not support the version of another one that is installed."""
    installed = _version(package)
    for distribution in importlib.metadata.distributions():
        for text in distribution.requires or []:
            if not text.lower().startswith(package):  # parsing all requirements takes a second
                continue
            needed = Requirement(text)
            has_extra = "extra" in str(needed.marker or "")
            if needed.name.lower() == package and not has_extra and not needed.specifier.contains(installed or "0"):
                wanted = f"{package}{needed.specifier}"
                found = f"{distribution.name} needs {wanted}, not {installed}"
                yield Finding("warning", SUBJECT, found, f'run `pip install "{wanted}"`, or remove {distribution.name}')


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _operators() -> Iterator[Finding]:
    """Yield an error if torchvision was compiled for another torch: its operators are then missing."""
    try:
        torch.ops.torchvision.nms  # noqa: B018 # raises if it is missing
    except (AttributeError, RuntimeError):
        yield Finding(
            "error", SUBJECT, "torchvision does not match torch: its operators cannot be loaded",
            "run `pip install --force-reinstall torch torchvision`",
        )  # fmt: skip


def storage(settings: Settings, *, weights: int, input_size: tuple[int, int]) -> Iterator[Finding]:
    """Yield the findings about disk and shared memory.

    Args:
        settings: All settings of the training.
        weights: Number of parameters of the network.
        input_size: Height and width of its images in pixels.
    """
    args, folder = settings.trainer, Path(str(settings.trainer.output_dir)).expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    newest = max(args.save_total_limit or args.num_train_epochs, KEPT_WHILE_TRAINING)
    kept = newest + 2  # the best one, and the one that is being written
    is_full = settings.strategy.strategy == "full" and not settings.strategy.freeze_blocks
    per_weight = _BYTES_PER_WEIGHT if is_full else _BYTES_PER_FROZEN_WEIGHT
    need = 0 if settings.strategy.strategy == "head" else per_weight * weights * kept
    free = shutil.disk_usage(existing).free
    text = f"{folder.name}: checkpoints need about {need / 1e9:.2g} GB, and {free / 1e9:.3g} GB are free"
    if need > free:
        yield Finding("error", SUBJECT, text, "choose an --output_dir on another disk, or lower --save_total_limit")
    else:
        yield Finding("ok", SUBJECT, text)
    if not args.dataloader_num_workers or not _SHARED_MEMORY.is_dir():
        return
    image = 3 * input_size[0] * input_size[1] * _BYTES_PER_PIXEL_VALUE
    need = args.dataloader_num_workers * _BATCHES_PER_WORKER * args.per_device_train_batch_size * image
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if need > free:
        yield Finding(
            "error", SUBJECT,
            f"{args.dataloader_num_workers} data workers need {need / 1e6:.0f} MB of {_SHARED_MEMORY}, and "
            f"{free / 1e6:.0f} MB are free",
            "pass --dataloader_num_workers 0, or start the container with --shm-size=8g",
        )  # fmt: skip
