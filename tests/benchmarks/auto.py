"""Compare `--auto` with what it must not lose to: linear probe, default fine-tuning, stock script, notebook loop.

    python -m tests.benchmarks.auto DATA MODEL [--seeds 42 43 44] [--threads 1] [--only auto ...]

DATA is any dataset that `train` reads, MODEL the folder of a ViT. Validation chooses checkpoints and settings on every
side, so its accuracy is optimistic: the program also prints the accuracy on images that chose nothing. They are the
test split, or half of validation if the dataset has no test split. Seconds are those of a complete command for our
rows, and of the training alone for the two baselines, which train 15 epochs with one seed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoImageProcessor

from pipeline import load_splits
from pipeline.performance import machine
from pipeline.runs.files import read_json
from pipeline.runs.folder import RESULTS
from tests.benchmarks.baselines import (
    EPOCHS,
    Notebook,
    median_and_range,
    run_in_subprocess,
    silence_libraries,
    stock_trainer,
    stock_transform_rows,
    stock_transforms,
)

OURS = {"linear probe": ["--strategy=head"], "fine-tuning": [], "auto": ["--auto"]}
Scores = tuple[float, float, float]  # accuracy that chose, accuracy that chose nothing, seconds


def halve_validation(splits: datasets.DatasetDict) -> datasets.DatasetDict:
    """Return the splits with a test split: every second image of each class of validation, if there is none."""
    if "test" in splits:
        return splits
    seen: dict[int, int] = {}
    halves: tuple[list[int], list[int]] = ([], [])
    for row, label in enumerate(splits["validation"]["label"]):
        seen[label] = seen.get(label, 0) + 1
        halves[seen[label] % 2].append(row)
    kept, held_out = (splits["validation"].select(rows) for rows in halves)
    return datasets.DatasetDict(train=splits["train"], validation=kept, test=held_out)


def write_folders(splits: datasets.DatasetDict, root: Path) -> None:
    """Write the images as class folders, which every side reads. The classes are numbered, in their order."""
    for name, split in splits.items():
        for row in split:
            image, label = row["image"], row["label"]
            content = image["bytes"] or Path(image["path"]).read_bytes()
            folder = root / name / f"{label:04}"
            folder.mkdir(parents=True, exist_ok=True)
            suffix = Path(image["path"] or "").suffix or ".png"
            (folder / f"{row['index']:06}{suffix}").write_bytes(content)


def measure_ours(flags: list[str], data: Path, model: Path, threads: int, seed: int) -> Scores:
    """Run one command in a new process with empty caches."""
    with tempfile.TemporaryDirectory() as scratch:
        run, cache = Path(scratch) / "run", {"HF_HOME": scratch, "HF_DATASETS_CACHE": f"{scratch}/datasets"}
        environment = os.environ | cache | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        words = [f"--dataset_name={data}", f"--model_name_or_path={model}", f"--output_dir={run}", f"--seed={seed}"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pipeline", "train", *words, *flags],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        results = read_json(run / RESULTS)
        return results["eval_accuracy"], results["test_accuracy"], time.perf_counter() - start


def read_decoded(data: Path) -> datasets.DatasetDict:
    """Return the splits with decoded images, as the baselines need them."""
    return datasets.DatasetDict(load_splits(str(data))).cast_column("image", datasets.Image())


def measure_notebook(data: Path, model: Path, size: int) -> Scores:
    splits = read_decoded(data)
    notebook = Notebook(splits, model, size)
    line = notebook.run()
    notebook.model.load_state_dict(notebook.best_weights)
    test = Notebook(datasets.DatasetDict(train=splits["train"], validation=splits["test"]), model, size)
    return line.best, notebook.validate(test.val_loader), line.seconds


def measure_stock(data: Path, model: Path, size: int) -> Scores:
    splits = read_decoded(data)
    _, transform = stock_transforms(AutoImageProcessor.from_pretrained(model), size)
    test = splits["test"].with_transform(lambda rows: stock_transform_rows(rows, transform))
    with tempfile.TemporaryDirectory() as folder:
        best = {"metric_for_best_model": "accuracy"}  # the fairest stock script keeps its best epoch
        trainer = stock_trainer(splits, model, size, folder, save_strategy="epoch", load_best_model_at_end=True, **best)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        dataset: Any = test
        return trainer.evaluate()["eval_accuracy"], trainer.evaluate(dataset)["eval_accuracy"], seconds


BASELINES: dict[str, Callable[[Path, Path, int], Scores]] = {
    f"stock script, {EPOCHS} epochs": measure_stock,
    f"notebook's loop, {EPOCHS} epochs": measure_notebook,
}


def print_row(name: str, scores: list[Scores]) -> None:
    chose, unseen, seconds = zip(*scores, strict=True)
    cells = [median_and_range([100 * value for value in values], "%") for values in (chose, unseen)]
    print(f"| {name} | {cells[0]} | {cells[1]} | {median_and_range(seconds, ' s', 0)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="dataset, as for train --dataset_name")
    parser.add_argument("model", type=Path, help="folder of a ViT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="seeds of our rows")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--only", nargs="+", choices=[*OURS, *BASELINES], default=[*OURS, *BASELINES])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    silence_libraries()
    size = AutoImageProcessor.from_pretrained(options.model).size
    print("| what | accuracy that chose | accuracy that chose nothing | seconds |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_folders(halve_validation(load_splits(options.data)), data)
        for name in options.only:
            if name in OURS:
                seeds = [measure_ours(OURS[name], data, options.model, options.threads, seed) for seed in options.seeds]
                print_row(name, seeds)
            else:
                print_row(name, [run_in_subprocess(BASELINES[name], data, options.model, size["height"])])


if __name__ == "__main__":
    main()
