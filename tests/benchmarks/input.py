"""Images a second that training can be fed with on one core, against a stock script: first epoch and later ones.

    python -m tests.benchmarks.input [--images 1020] [--rounds 3] [--quality 75] [--image_cache_gb 100]

The images are noise of many sizes of grain, a third taller than wide, in JPEG of a quality that makes them as large as
the photographs of Flowers-102 are: 42 kB (345 MB, 8,189 of them). Ours: the split through `decode_once`,
`TrainTransform`, `collate` and `Normalize`. Stock: that of S in `baselines`, whose images `datasets` decodes, cropped
and normalised by torchvision. Both in batches of 32, each in a process of its own that has done the same once before,
and has just written, and removed, a file of 1 GiB. Rounds alternate and start with an empty cache; printed are the
medians and their range over the rounds, and those of the rounds' ratios.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from pipeline.arguments.images import AugmentationArguments
from pipeline.images.disk_cache import cache_decoded
from pipeline.images.processor import ImageProcessor, Normalize
from pipeline.images.transforms import TrainTransform, collate
from pipeline.performance.machine import keep_freed_memory
from tests.benchmarks.baselines import alone, stock_collate, stock_transforms, transformed

EPOCHS = 1000  # that the cache is told of: enough to be made for few images too
BATCH = 32
LATER = 2  # epochs that are timed after the first


def photograph(rng: np.random.Generator, side: int, quality: int) -> bytes:
    """Blotches, texture and grain."""
    height = side * 4 // 3
    pixels = np.full((height, side, 3), 128.0)
    for share, deviation in ((0.005, 60), (0.02, 40), (0.1, 25), (0.3, 5), (1.0, 2)):
        shape = (max(2, int(height * share)), max(2, int(side * share)), 3)
        coarse = np.clip(128 + rng.normal(0, deviation, shape), 0, 255).astype(np.uint8)
        resized = Image.fromarray(coarse).resize((side, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(resized).astype(float) - 128
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=quality)
    return content.getvalue()


def draw(folder: Path, images: int, side: int, quality: int) -> datasets.Dataset:
    """The split, and its files."""
    rng = np.random.default_rng(0)
    files = [folder / f"{number}.jpg" for number in range(images)]
    for file in files:
        file.write_bytes(photograph(rng, side, quality))
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.Value("int64"), index=datasets.Value("int64")
    )
    rows = [{"bytes": None, "path": str(file)} for file in files]
    columns = {"image": rows, "label": [0] * images, "index": list(range(images))}
    return datasets.Dataset.from_dict(columns, features=features)


def ours(split: datasets.Dataset, side: int, limit_gb: float) -> tuple[float, float]:
    """Seconds of the first epoch, with the making of the cache, and of a later one."""
    processor = cast(ImageProcessor, ViTImageProcessor(size={"height": side, "width": side}))
    keep_freed_memory()  # as `train` does
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        transform, normalize = TrainTransform(processor, AugmentationArguments(), seed=0), Normalize(processor)
        start = time.perf_counter()
        kept = cache_decoded(split, transform, limit_gb=limit_gb, epochs=EPOCHS, split_name="train")
        loader: Any = DataLoader(kept.with_transform(transform), BATCH, shuffle=True, collate_fn=collate)

        def epoch() -> None:
            for batch in loader:
                normalize(batch["pixel_values"])

        return timed(epoch, start)


def stock(split: datasets.Dataset, side: int) -> tuple[float, float]:
    """The same of S."""
    training, _ = stock_transforms(ViTImageProcessor(), side)
    start = time.perf_counter()
    rows: Any = split.cast_column("image", datasets.Image()).with_transform(lambda batch: transformed(batch, training))
    loader = DataLoader(rows, BATCH, shuffle=True, collate_fn=stock_collate)

    def epoch() -> None:
        for _ in loader:
            pass

    return timed(epoch, start)


def warmed(side: Callable[..., tuple[float, float]], split: datasets.Dataset, *options: Any) -> tuple[float, float]:
    """What a side takes when it runs a second time, with an empty cache: imports are left out, and fresh memory."""
    side(split, *options)
    touch_free_memory()
    return side(split, *options)


def touch_free_memory() -> None:
    """Have the memory that files will lie in backed: some virtual machines take back what is free within seconds, and
    to get it again takes ten times as long as to fill it.
    """
    with tempfile.TemporaryFile() as file:
        for _ in range(64):
            file.write(bytes(2**24))


def timed(epoch: Callable[[], None], start: float) -> tuple[float, float]:
    epoch()
    later = time.perf_counter()
    for _ in range(LATER):
        epoch()
    return later - start, (time.perf_counter() - later) / LATER


def line(name: str, images: int, seconds: list[tuple[float, float]]) -> str:
    """Ours and stock in images a second, and their ratio."""
    rates = [[images / side for side in pair] for pair in seconds]
    ratios = [ours / stock for ours, stock in rates]
    shown = [f"{statistics.median(x):.0f} [{min(x):.0f}, {max(x):.0f}]" for x in zip(*rates, strict=True)]
    return (
        f"{name}: ours {shown[0]}, stock {shown[1]} images/s; "
        f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1020)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=500, help="of the images' width, in pixels")
    parser.add_argument("--quality", type=int, default=75, help="of the JPEGs")
    parser.add_argument("--image_cache_gb", type=float, default=100, help="0: ours decodes in every epoch too")
    parser.add_argument("--input", type=int, default=224, help="of the network, in pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    first, later = [], []
    with tempfile.TemporaryDirectory() as folder:
        split = draw(Path(folder), options.images, options.side, options.quality)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / options.images
        print(f"{options.images} JPEGs of {size / 1024:.0f} KiB, {options.rounds} rounds, one core")
        for turn in range(options.rounds):
            sides: dict[str, tuple[Any, ...]]
            sides = {
                "stock": (stock, split, options.input),
                "ours": (ours, split, options.input, options.image_cache_gb),
            }
            seconds = {name: alone(warmed, *sides[name]) for name in list(sides)[:: -1 if turn % 2 else 1]}
            first.append((seconds["ours"][0], seconds["stock"][0]))
            later.append((seconds["ours"][1], seconds["stock"][1]))
    print(line("first epoch", options.images, first))
    print(line("later epochs", options.images, later))


if __name__ == "__main__":
    main()
