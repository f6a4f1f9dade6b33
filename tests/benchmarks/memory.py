"""Measure the anonymous memory of `train` with 2,000 and with 50,000 images: it must not grow with the dataset.

    python -m tests.benchmarks.memory [--counts 2000 50000]

Each run is the command that a user would type: one epoch of a two-layer ViT on a Parquet file of small noisy images.
The program prints two peaks, both sampled ten times per second: RssAnon of the process, and the anonymous memory of
the process with its children, in which pages shared after a fork count once (Pss_Anon).
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from tests.conftest import save_vit

CLASSES = 10


def rows(count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for i in range(count):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(content, "JPEG")
        yield {"image": {"bytes": content.getvalue(), "path": None}, "label": i % CLASSES}


def write(folder: Path, count: int) -> Path:
    names = [str(i) for i in range(CLASSES)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    data = datasets.Dataset.from_generator(
        rows, gen_kwargs={"count": count}, features=features, cache_dir=str(folder / "cache")
    )
    # Image datasets on the Hub have row groups of this size. The cache reads one complete row group at a time.
    data.to_parquet(folder / "train.parquet", batch_size=100)
    return folder


def anonymous_memory(pid: int) -> tuple[int, int]:
    """Return RssAnon of a process, and Pss_Anon of the process with its children, both in KiB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # the process has ended
        return 0, 0
    resident, proportional = re.search(r"RssAnon:\s+(\d+)", status), re.search(r"Pss_Anon:\s+(\d+)", rollup)
    if resident is None or proportional is None:
        return 0, 0
    return int(resident[1]), int(proportional[1]) + sum(anonymous_memory(int(child))[1] for child in children)


def peak_memory(data: Path, model: Path, run: Path) -> tuple[int, int]:
    """Train once; return the peaks of `anonymous_memory` in KiB."""
    flags = [f"--dataset_name={data}", f"--model_name_or_path={model}", f"--output_dir={run}"]
    command = [sys.executable, "-m", "pipeline", "train", *flags, "--num_train_epochs=1", "--learning_rate=1e-3"]
    environment = os.environ | {"HF_HOME": str(run.parent / "hf")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        alone = with_children = 0
        while process.poll() is None:
            current = anonymous_memory(process.pid)
            alone, with_children = max(alone, current[0]), max(with_children, current[1])
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return alone, with_children


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 50000])
    counts = parser.parse_args().counts
    peaks = []
    with tempfile.TemporaryDirectory() as root:
        model = save_vit(Path(root) / "vit")
        for count in counts:
            folder = Path(root) / str(count)
            folder.mkdir()
            peaks.append(peak_memory(write(folder, count), model, Path(root) / f"run-{count}"))
            alone, with_children = (kib / 1024 for kib in peaks[-1])
            print(f"{count} images: peak RssAnon {alone:.0f} MiB, with children {with_children:.0f} MiB", flush=True)
    (small, small_with_children), *_, (large, large_with_children) = peaks
    print(f"ratio {large / small:.3f}, with children {large_with_children / small_with_children:.3f}")


if __name__ == "__main__":
    main()
