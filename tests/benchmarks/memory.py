"""Anonymous memory of `train` over 2,000 and over 50,000 images: it must not grow with the data.

    python -m tests.benchmarks.memory [--counts 2000 50000]

Each run is the command a user would type, on a parquet file of small noisy images, one epoch with a two-layer ViT.
Printed is the peak of RssAnon of the process, and of the anonymous memory of it and its children together, in which
pages that a fork shares count once (Pss_Anon); both sampled ten times a second.
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
    # Row groups as the Hub's image sets have them: one is read at a time, whole, while the cache is made.
    data.to_parquet(folder / "train.parquet", batch_size=100)
    return folder


def anonymous(pid: int) -> tuple[int, int]:
    """KiB: RssAnon of a process, and Pss_Anon of it and its children."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0, 0
    own, share = re.search(r"RssAnon:\s+(\d+)", status), re.search(r"Pss_Anon:\s+(\d+)", rollup)
    if own is None or share is None:
        return 0, 0
    return int(own[1]), int(share[1]) + sum(anonymous(int(child))[1] for child in children)


def peak(data: Path, model: Path, run: Path) -> tuple[int, int]:
    flags = [f"--dataset_name={data}", f"--model_name_or_path={model}", f"--output_dir={run}"]
    command = [sys.executable, "-m", "pipeline", "train", *flags, "--num_train_epochs=1", "--learning_rate=1e-3"]
    environment = os.environ | {"HF_HOME": str(run.parent / "hf")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        own = tree = 0
        while process.poll() is None:
            now = anonymous(process.pid)
            own, tree = max(own, now[0]), max(tree, now[1])
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return own, tree


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
            peaks.append(peak(write(folder, count), model, Path(root) / f"run-{count}"))
            own, tree = (kib / 1024 for kib in peaks[-1])
            print(f"{count} images: peak RssAnon {own:.0f} MiB, with children {tree:.0f} MiB", flush=True)
    (small, small_tree), *_, (large, large_tree) = peaks
    print(f"ratio {large / small:.3f}, with children {large_tree / small_tree:.3f}")


if __name__ == "__main__":
    main()
