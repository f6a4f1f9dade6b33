"""Measure the time and the memory of all metrics of 1,000,000 predictions over 1,000 classes.

    python -m tests.benchmarks.metrics [--images 1000000] [--classes 1000] [--accuracy 0.8]

The logits are a memory-mapped file in the folder of temporary files, 4 GB by default. Memory is the peak of RssAnon of
the process, sampled twenty times per second, without what the process had before: the pages of the file do not count.
"""

import argparse
import re
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.metrics import split_metrics


def write_logits(file: Path, images: int, classes: int, accuracy: float) -> NDArray[np.int64]:
    """Write noise in which about `accuracy` of the true classes are the most likely, and return the true classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, images)
    logits = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=(images, classes))
    for start in range(0, images, 1000):
        rows = logits[start : start + 1000]
        rows[:] = rng.standard_normal(rows.shape, dtype=np.float32)
        likely = np.where(
            rng.random(len(rows)) < accuracy, labels[start : start + 1000], rng.integers(0, classes, len(rows))
        )
        rows[np.arange(len(rows)), likely] += 8
    logits.flush()
    return labels


def anonymous_memory() -> int:
    """Return RssAnon of this process in MiB."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


class Peak(threading.Thread):
    """Samples the memory until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.highest, self._end = anonymous_memory(), 0, threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.05):
            self.highest = max(self.highest, anonymous_memory() - self.before)

    def stop(self) -> int:
        self._end.set()
        self.join()
        return self.highest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--accuracy", type=float, default=0.8)
    options = parser.parse_args()
    names = [f"class {number}" for number in range(options.classes)]
    with tempfile.TemporaryDirectory() as folder:
        labels = write_logits(Path(folder) / "logits.npy", options.images, options.classes, options.accuracy)
        logits = np.load(Path(folder) / "logits.npy", mmap_mode="r")
        peak = Peak()
        peak.start()
        start, processor = time.perf_counter(), time.process_time()
        metrics = split_metrics(logits, labels, names)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        print(f"{options.images} images, {options.classes} classes, accuracy {metrics['accuracy']:.3f}")
        print(f"{seconds:.1f} s, of which the CPU worked {processor:.1f} s; {peak.stop()} MiB")


if __name__ == "__main__":
    main()
