"""Compare the input throughput on one core with that of a stock script: the first epoch and later epochs.

    python -m tests.benchmarks.input [--images 1020] [--rounds 3] [--quality 75] [--image_cache_gb 100]

The images are noise at several scales, a third taller than wide. The JPEG quality gives them the size of the
photographs of Flowers-102, which is 42 kB (345 MB for 8,189 photographs). Our side runs `cache_decoded`,
`TrainTransform`, `collate` and `Normalize`. The stock side is the script of `baselines`: `datasets` decodes the
images, torchvision crops and normalizes them. Both sides use batches of 32.

Each side runs in a new process. It does the same work once before the timing, then writes and removes a file of 1 GiB
(see `touch_free_memory`), and starts with an empty cache. The rounds alternate which side runs first. The program
prints the medians over the rounds with their ranges, for both sides and for the ratio.
"""

import argparse
import io
import os
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

from pipeline.arguments.images import ImageArguments
from pipeline.images.disk_cache import cache_decoded
from pipeline.images.processor import ImageProcessor, Normalize
from pipeline.images.transforms import TrainTransform, collate
from pipeline.performance.machine import keep_freed_memory
from tests.benchmarks.baselines import (
    median_and_range,
    run_in_subprocess,
    stock_collate,
    stock_transform_rows,
    stock_transforms,
)

EPOCHS = 1000  # passed to the cache: with so many epochs it is built for a few images too
BATCH = 32
LATER_EPOCHS = 2  # timed after the first epoch


def photograph(rng: np.random.Generator, side: int, quality: int) -> bytes:
    """Return a JPEG of noise at several scales, like the regions, texture and grain of a photograph."""
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


def write_images(folder: Path, images: int, side: int, quality: int) -> datasets.Dataset:
    """Write the JPEGs into the folder; return them as a split."""
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
    """Return the seconds of our first epoch, which includes building the cache, and of a later epoch."""
    processor = cast(ImageProcessor, ViTImageProcessor(size={"height": side, "width": side}))
    keep_freed_memory()  # as `train` does
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        transform, normalize = TrainTransform(processor, ImageArguments(), seed=0), Normalize(processor)
        start = time.perf_counter()
        cached = cache_decoded(split, transform, limit_gb=limit_gb, epochs=EPOCHS, split_name="train")
        loader: Any = DataLoader(cached.with_transform(transform), BATCH, shuffle=True, collate_fn=collate)

        def epoch() -> None:
            for batch in loader:
                normalize(batch["pixel_values"])

        return timed(epoch, start)


def stock(split: datasets.Dataset, side: int) -> tuple[float, float]:
    """Return the seconds of the stock script's first epoch and of a later epoch."""
    training, _ = stock_transforms(ViTImageProcessor(), side)
    start = time.perf_counter()
    rows: Any = split.cast_column("image", datasets.Image()).with_transform(
        lambda batch: stock_transform_rows(batch, training)
    )
    loader = DataLoader(rows, BATCH, shuffle=True, collate_fn=stock_collate)

    def epoch() -> None:
        for _ in loader:
            pass

    return timed(epoch, start)


def measure_warm(
    measure: Callable[..., tuple[float, float]], split: datasets.Dataset, *options: Any
) -> tuple[float, float]:
    """Return the seconds of a second run, whose cache is empty: imports and first memory allocations do not count."""
    measure(split, *options)
    touch_free_memory()
    return measure(split, *options)


def touch_free_memory() -> None:
    """Write a large file so that the host provides the memory that the page cache needs.

    Some virtual machines give free memory back to the host within seconds. Getting it again takes ten times as long as
    filling it.
    """
    with tempfile.TemporaryFile() as file:
        for _ in range(64):
            file.write(bytes(2**24))


def timed(epoch: Callable[[], None], start: float) -> tuple[float, float]:
    epoch()
    later = time.perf_counter()
    for _ in range(LATER_EPOCHS):
        epoch()
    return later - start, (time.perf_counter() - later) / LATER_EPOCHS


def describe(name: str, images: int, seconds: list[tuple[float, float]]) -> str:
    """Format the throughput of ours and of stock, and their ratio."""
    rates = [(images / ours, images / stock) for ours, stock in seconds]
    our_rates, stock_rates = zip(*rates, strict=True)
    ratios = median_and_range([ours / stock for ours, stock in rates], digits=2)
    return (
        f"{name}: ours {median_and_range(our_rates, digits=0)}, "
        f"stock {median_and_range(stock_rates, digits=0)} images/s; ratio {ratios}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1020)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=500, help="width of the images in pixels")
    parser.add_argument("--quality", type=int, default=75, help="JPEG quality")
    parser.add_argument(
        "--image_cache_gb", type=float, default=100, help="limit of the cache; 0: ours decodes in every epoch too"
    )
    parser.add_argument("--input", type=int, default=224, help="input resolution of the network in pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    first, later = [], []
    with tempfile.TemporaryDirectory() as folder:
        split = write_images(Path(folder), options.images, options.side, options.quality)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / options.images
        print(f"{options.images} JPEGs of {size / 1024:.0f} KiB, {options.rounds} rounds, one core")
        for index in range(options.rounds):
            sides: dict[str, tuple[Any, ...]]
            sides = {
                "stock": (stock, split, options.input),
                "ours": (ours, split, options.input, options.image_cache_gb),
            }
            seconds = {
                name: run_in_subprocess(measure_warm, *sides[name]) for name in list(sides)[:: -1 if index % 2 else 1]
            }
            first.append((seconds["ours"][0], seconds["stock"][0]))
            later.append((seconds["ours"][1], seconds["stock"][1]))
    print(describe("first epoch", options.images, first))
    print(describe("later epochs", options.images, later))


if __name__ == "__main__":
    main()
