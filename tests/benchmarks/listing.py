"""How long a folder of 50,000 small JPEGs takes before the first step: listed, labelled, read once, fingerprinted.

    python -m tests.benchmarks.listing [--images 50000] [--rounds 3]

The images lie in 100 class folders below `train` and `validation`. Imports do not count; the cache is empty each time.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from pipeline.arguments.data import DataArguments
from pipeline.data.folders import read_image_folder
from pipeline.data.sources import fingerprint, load_splits

CLASSES = 100


def draw(root: Path, images: int) -> None:
    """Noise of 32 pixels a side, a tenth of it for validation."""
    rng = np.random.default_rng(0)
    for number in range(images):
        split = "validation" if number // CLASSES % 10 == 0 else "train"
        folder = root / split / f"class {number % CLASSES:02}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")


def measure(root: Path) -> dict[str, float]:
    """Seconds of listing alone, and of all that comes before the network is built."""
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        start = time.perf_counter()
        read_image_folder(root)
        listed = time.perf_counter()
        fingerprint(load_splits(DataArguments(dataset_name=str(root))))
        return {"listing": listed - start, "all before the first step": time.perf_counter() - listed}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.images)
        rounds = [measure(Path(folder)) for _ in range(options.rounds)]
    for name in rounds[0]:
        seconds = [figures[name] for figures in rounds]
        print(f"{name}: {statistics.median(seconds):.1f} s [{min(seconds):.1f}, {max(seconds):.1f}]")


if __name__ == "__main__":
    main()
