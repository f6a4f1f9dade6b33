"""Measure the time from 50,000 small JPEGs in class folders to splits that are ready for the first step.

    python -m tests.benchmarks.listing [--images 50000] [--rounds 3]

The folder holds 100 class folders below `train` and below `validation`. The program times the listing alone, and then
the listing with labels, one check of every image, and the fingerprint. Imports do not count. The cache is empty in
each round.
"""

import argparse
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from pipeline.arguments.data import DataArguments
from pipeline.data.folders.read import read_image_folder
from pipeline.data.report import fingerprint
from pipeline.data.sources import load_splits
from tests.benchmarks.baselines import median_and_range

CLASSES = 100


def write_images(root: Path, images: int) -> None:
    """Write JPEGs of noise, 32 x 32 pixels; one in ten goes to validation."""
    rng = np.random.default_rng(0)
    for number in range(images):
        split = "validation" if number // CLASSES % 10 == 0 else "train"
        folder = root / split / f"class {number % CLASSES:02}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")


def measure(root: Path) -> dict[str, float]:
    """Return the seconds of the listing alone, and of everything before the network is built."""
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
        write_images(Path(folder), options.images)
        rounds = [measure(Path(folder)) for _ in range(options.rounds)]
    for name in rounds[0]:
        seconds = [timings[name] for timings in rounds]
        print(f"{name}: {median_and_range(seconds, ' s')}")


if __name__ == "__main__":
    main()
