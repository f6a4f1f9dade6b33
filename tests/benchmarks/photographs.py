"""Compare the pipeline with the notebook's loop and a stock Trainer script on real photographs.

    python -m tests.benchmarks.photographs [--only n|s|ours] [--seeds 42 43 44] [--baselines FILE] [--flag value ...]

The data are Flowers-102 at 64 px (1,020 training and 1,020 validation images). The model is a pre-trained ViT with
2.7 M parameters at 32 px. Neither is part of the project: the folder that `VIT_PIPELINE_SHARED` names (by default the
folder `shared` next to the checkout) must contain `flowers102-64px` and `vit-tiny-imagenet-32px`.

The baselines `n` (the notebook's loop) and `s` (the stock script) come from `baselines` and train 15 epochs. With
`--baselines FILE` they are read from the file; if the file does not exist, they are measured and written to it. Our
side is the command that a user would type, in a new process, with the flags below and all flags that this program does
not know. Times start with the training and include the extraction of features. Imports, loading and the final scoring
are not included on any side.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import datasets
import torch

from pipeline.performance import machine
from pipeline.runs.files import read_json
from pipeline.runs.folder import RECORD, RESULTS, TRAINER_STATE
from tests.benchmarks.baselines import EPOCHS, Notebook, TimeLine, median_and_range, run_stock, silence_libraries
from tests.conftest import SHARED

# Two cases: the fastest way to a good classifier, and the best classifier within the notebook's time.
FAST = ["--strategy=head"]
BEST = [
    "--image_size=48",
    "--patch_drop_rate=0.5",
    "--num_train_epochs=24",
    "--learning_rate=2e-3",
    "--layer_decay=0.85",
    "--weight_decay=0.05",
    "--warmup_steps=0.05",
    "--per_device_train_batch_size=32",
    "--crop_scale=0.4",
    "--mixup=0.8",
    "--label_smoothing_factor=0.1",
    "--ema_decay=0.99",
    "--fixres",
    "--refit_head",
    *("--eval_strategy=steps", "--eval_steps=768", "--save_strategy=steps", "--save_steps=768"),  # once, at the end
]

DATA, MODEL, SIZE = SHARED / "flowers102-64px", SHARED / "vit-tiny-imagenet-32px", 32
NAMES = {"n": "notebook", "s": "stock script"}
TARGET_RATIO = 1 / 15  # at most this share of a baseline's time until its best accuracy is reached
# Within the notebook's time: at least this accuracy, and at least this lead over the stock script.
TARGET_ACCURACY, TARGET_LEAD = 0.45, 0.15


def train(flags: Sequence[str], *, data: Path, model: Path, folder: Path, threads: int) -> Path:
    """Run the `train` verb in a new process with empty caches; return the run folder."""
    run = folder / "run"
    paths = [f"--dataset_name={data}", f"--model_name_or_path={model}", f"--output_dir={run}"]
    cache = {"HF_HOME": str(folder / "hf"), "HF_DATASETS_CACHE": str(folder / "hf" / "datasets"), "HF_HUB_OFFLINE": "1"}
    environment = os.environ | cache | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "pipeline", "train", *paths, *flags]
    if code := subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(code)
    return run


def time_line(run: Path) -> TimeLine:
    """Read the validation accuracies of one of our runs, with their times, from its files."""
    record, results = read_json(run / RECORD), read_json(run / RESULTS)
    timings: dict[str, float] = record["timings"]
    if not (run / TRAINER_STATE).exists():  # --strategy head takes no training steps
        seconds = timings["features"] + timings["probe"]
        return TimeLine([(seconds, results["eval_accuracy"])], seconds)
    rows = read_json(run / TRAINER_STATE)["log_history"]
    points = [(row["elapsed"], row["eval_accuracy"]) for row in rows if "eval_accuracy" in row]
    return TimeLine([*points, (timings["train"], results["eval_accuracy"])], timings["train"])


def read_splits(folder: Path, cache: Path) -> datasets.DatasetDict:
    """Return `train` and `validation` from a folder with two Parquet files; the folder is not written to."""
    files = {name: str(folder / f"{name}.parquet") for name in ("train", "validation")}
    return datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache)).cast_column(
        "image", datasets.Image()
    )


def measure_baseline(name: str, epochs: int) -> TimeLine:
    silence_libraries()
    with tempfile.TemporaryDirectory() as cache:
        splits = read_splits(DATA, Path(cache))
        return Notebook(splits, MODEL, SIZE, epochs).run() if name == "n" else run_stock(splits, MODEL, SIZE, epochs)


def measure_ours(flags: Sequence[str], threads: int) -> TimeLine:
    with tempfile.TemporaryDirectory() as folder:
        return time_line(train(flags, data=DATA, model=MODEL, folder=Path(folder), threads=threads))


def read_baselines(file: Path | None, setting: dict[str, int]) -> dict[str, TimeLine]:
    """Return the baselines that the file contains, or none if there is no file.

    Raises:
        SystemExit: If they were measured with a different number of threads or epochs.
    """
    if file is None or not file.exists():
        return {}
    content = json.loads(file.read_text())
    if content["setting"] != setting:
        raise SystemExit(f"{file} was measured with {content['setting']}, not with {setting}: choose another file")
    return {
        name: TimeLine([(t, a) for t, a in line["points"]], line["seconds"])
        for name, line in content.items()
        if name in NAMES
    }


def compare_speed(case: str, lines: Sequence[TimeLine], baselines: dict[str, TimeLine]) -> None:
    for name, baseline in baselines.items():
        seconds = [line.seconds_to(baseline.best) for line in lines]
        print(
            f"{case}: reached the {NAMES[name]}'s best accuracy of {100 * baseline.best:.1f}% "
            f"in {median_and_range(seconds, ' s')}; ratio to its {baseline.seconds:.0f} s "
            f"{median_and_range([s / baseline.seconds for s in seconds], digits=4)} "
            f"(target: at most {TARGET_RATIO:.4f})"
        )


def compare_accuracy(lines: Sequence[TimeLine], baselines: dict[str, TimeLine]) -> None:
    limit = baselines["n"].seconds
    target = max(TARGET_ACCURACY, baselines["s"].best + TARGET_LEAD)
    accuracies = [100 * line.best_within(limit) for line in lines]
    print(
        f"best: {median_and_range(accuracies, '%')} within the notebook's {limit:.0f} s "
        f"(target: at least {100 * target:.1f}%)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", choices=[*NAMES, "ours"], help="measure one side only; ours is compared with the baselines in FILE"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="seeds of our runs")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument(
        "--baselines", type=Path, metavar="FILE", help="JSON file with the measurements of the baselines"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of the baselines")
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    setting = {"threads": options.threads, "epochs": options.epochs}
    baselines = read_baselines(options.baselines, setting)
    for name in NAMES if options.only is None else {options.only} - {"ours"}:
        if name not in baselines:
            baselines[name] = measure_baseline(name, options.epochs)
            if options.baselines:
                content = {"setting": setting} | {key: asdict(line) for key, line in baselines.items()}
                options.baselines.write_text(json.dumps(content, indent=1) + "\n")
    for name, line in baselines.items():
        print(f"{NAMES[name]}: best {100 * line.best:.1f}%, {line.seconds:.0f} s", flush=True)
    if options.only in NAMES:
        return
    for case, case_flags in {"fast": FAST, "best": BEST}.items():
        ours = []
        for seed in options.seeds:
            ours.append(measure_ours([*case_flags, f"--seed={seed}", *flags], options.threads))
            print(f"{case}, seed {seed}: best {100 * ours[-1].best:.1f}%, {ours[-1].seconds:.1f} s", flush=True)
        compare_speed(case, ours, baselines)
        if case == "best" and set(baselines) == set(NAMES):
            compare_accuracy(ours, baselines)


if __name__ == "__main__":
    main()
