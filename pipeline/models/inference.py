"""The one inference loop: batches of images -> what a forward function returns, on all ranks, in order."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from pipeline import distributed, progress
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.images.transforms import ImageLoader, collate
from pipeline.performance.device import DTYPES, Precision, pick_device

T = TypeVar("T")


@dataclass(frozen=True)
class LoaderOptions:
    """How images are loaded for inference.

    Attributes:
        batch_size: Images per forward pass.
        num_workers: Data workers of each rank.
        progress: Whether to show a progress bar.
    """

    batch_size: int = 64
    num_workers: int = 0
    progress: bool = False

    @classmethod
    def of(cls, args: FineTuningArguments) -> "LoaderOptions":
        """Return the options that the flags of a training state for scoring."""
        return cls(args.per_device_eval_batch_size, args.dataloader_num_workers, not args.disable_tqdm)


def run_inference(
    model: PreTrainedModel,
    rows: Any,
    forward: Callable[[dict[str, Any]], T],
    options: LoaderOptions,
    *,
    description: str,
    precision: Precision = "fp32",
    collate_fn: Callable[[Any], dict[str, Any]] = collate,
) -> list[T]:
    """Call a function on every batch of images, in evaluation mode and without gradients. All ranks must call it.

    Batches are the same with any number of ranks, which share them, so results do not depend on it. The network and the
    global random generators are left as they were.

    Args:
        model: The network that `forward` calls. It is moved to the accelerator if there is one, and back.
        rows: A map-style dataset whose rows `collate_fn` joins to a batch with `pixel_values`.
        forward: Gets a batch whose `pixel_values` are on the device; its result must be picklable.
        options: How the images are loaded.
        description: Text of the progress bar.
        precision: What the forward pass computes in (autocast).
        collate_fn: Joins rows to a batch.

    Returns:
        One result for each batch, in the order of the rows, on every rank.

    Raises:
        PipelineError: If `forward` or loading an image raises it, on any rank.
    """
    loader, _ = _load_shard(rows, options, collate_fn)
    bar = progress.progress_bar(loader, desc=description, unit="batch", enabled=options.progress)
    with distributed.fail_together(), _evaluation_mode(model) as device:
        autocast = torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
        # Not inference_mode: some networks keep a tensor of their first forward pass, which training needs later.
        with torch.no_grad(), autocast:
            results = [forward(_to_device(batch, device)) for batch in bar]
    return distributed.all_gather_shards(results)


def stream_inference(
    model: PreTrainedModel,
    rows: Any,
    forward: Callable[[dict[str, Any]], T],
    options: LoaderOptions,
    *,
    description: str,
    collate_fn: Callable[[Any], dict[str, Any]] = collate,
) -> Iterator[T]:
    """Yield what `run_inference` returns as soon as it is known, in fp32. All ranks must iterate to the end.

    Ranks exchange their results after each batch, so use `run_inference` where all results are needed anyway.
    """
    loader, rounds = _load_shard(rows, options, collate_fn)
    bar = progress.progress_bar(loader, desc=description, unit="batch", enabled=options.progress)
    with distributed.fail_together(), _evaluation_mode(model) as device:
        for _, batch in itertools.zip_longest(range(rounds), bar):  # in the last round, some ranks have no batch
            with torch.no_grad():  # not around the yield, or the caller would run without gradients too
                results = [] if batch is None else [forward(_to_device(batch, device))]
            for shard in distributed.all_gather(results):
                yield from shard


def forward_seconds(model: PreTrainedModel, input_size: tuple[int, int]) -> float:
    """Return the seconds of the forward pass of one image in fp32, after one that is not measured.

    All ranks must call it, and get what the main process measured. The network is left as it was.

    Args:
        model: A network that can read `pixel_values`. It is moved to the accelerator if there is one, and back.
        input_size: Height and width in pixels.
    """
    network: Any = model
    seconds = 0.0
    with distributed.fail_together(), _evaluation_mode(model) as device, torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            network(pixel_values=torch.zeros(1, 3, *input_size, device=device)).logits.cpu()  # waits for the device
            seconds = time.perf_counter() - start
    return distributed.broadcast(seconds)


def _load_shard(
    rows: Any, options: LoaderOptions, collate_fn: Callable[[Any], dict[str, Any]]
) -> tuple[ImageLoader, int]:
    """Return the batches of this rank, and the largest number of batches of a rank."""
    starts = range(0, len(rows), options.batch_size)
    batches = [list(range(start, min(start + options.batch_size, len(rows)))) for start in starts]
    loader = ImageLoader(
        rows,
        batch_sampler=distributed.shard(batches),
        num_workers=options.num_workers,
        collate_fn=collate_fn,
        generator=torch.Generator(),  # the default one would advance the global generator, which training uses
    )
    return loader, -(-len(batches) // distributed.world_size())


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return batch | {"pixel_values": batch["pixel_values"].to(device)}


@contextlib.contextmanager
def _evaluation_mode(model: PreTrainedModel) -> Iterator[torch.device]:
    """Put a network on the device in evaluation mode; restore its device and the mode of each module afterwards."""
    network: Any = model  # the decorated `to` of transformers has lost its type
    home, modes = model.device, {module: module.training for module in model.modules()}
    device = pick_device()
    try:
        network.eval().to(device)
        yield device
    finally:
        network.to(home)
        for module, mode in modes.items():
            module.training = mode
