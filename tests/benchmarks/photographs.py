"""Real photographs of flowers with a small real ViT: the pipeline against the notebook and a stock Trainer script.

    python -m tests.benchmarks.photographs [--only n|s|ours] [--seeds 42 43 44] [--baselines FILE] [--flag value ...]

Flowers-102 at 64 px, 1,020 images to train and 1,020 to validate, and a ViT of 2.7 M parameters at 32 px. They are no
part of the project: `VIT_PIPELINE_SHARED`, or `../shared` beside the checkout, holds `flowers102-64px` and
`vit-tiny-imagenet-32px`. The baselines are those of `baselines`, 15 epochs; with `--baselines` they are read from the
file, or measured and written there. Ours is the command a user would type, in a process of its own, with the flags
below and those that are not known here. Time counts from the first second of training, the extraction of features
included; what is imported, loaded and scored at the end is left out on every side.
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
from tests.benchmarks.baselines import EPOCHS, Notebook, TimeLine, quieten, run_stock, spread
from tests.conftest import SHARED

# One case each: the fastest way to a good classifier, and the best one within the notebook's time.
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
    *("--eval_strategy=steps", "--eval_steps=768", "--save_strategy=steps", "--save_steps=768"),  # once, at its end
]

DATA, MODEL, SIZE = SHARED / "flowers102-64px", SHARED / "vit-tiny-imagenet-32px", 32
NAMES = {"n": "N, the notebook's loop", "s": "S, a stock Trainer script"}
RATIO = 1 / 15  # of a baseline's seconds, at most, until its best accuracy is reached
ACCURACY, LEAD = 0.45, 0.15  # within the notebook's seconds: at least this, and so much above S


def train(flags: Sequence[str], *, data: Path, model: Path, folder: Path, threads: int) -> Path:
    """Run the `train` verb in a process of its own, with empty caches; the folder of the run."""
    run = folder / "run"
    where = [f"--dataset_name={data}", f"--model_name_or_path={model}", f"--output_dir={run}"]
    cache = {"HF_HOME": str(folder / "hf"), "HF_DATASETS_CACHE": str(folder / "hf" / "datasets"), "HF_HUB_OFFLINE": "1"}
    environment = os.environ | cache | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "pipeline", "train", *where, *flags]
    if code := subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(code)
    return run


def time_line(run: Path) -> TimeLine:
    """Validation accuracies of one of our runs, as its files tell them."""
    record, results = read_json(run / RECORD), read_json(run / RESULTS)
    timings: dict[str, float] = record["timings"]
    if not (run / TRAINER_STATE).exists():  # a head alone, which has no steps
        seconds = timings["features"] + timings["probe"]
        return TimeLine([(seconds, results["eval_accuracy"])], seconds)
    rows = read_json(run / TRAINER_STATE)["log_history"]
    points = [(row["elapsed"], row["eval_accuracy"]) for row in rows if "eval_accuracy" in row]
    return TimeLine([*points, (timings["train"], results["eval_accuracy"])], timings["train"])


def read_splits(folder: Path, cache: Path) -> datasets.DatasetDict:
    """`train` and `validation` of a folder with two parquet files; nothing is written beside them."""
    files = {name: str(folder / f"{name}.parquet") for name in ("train", "validation")}
    return datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache)).cast_column(
        "image", datasets.Image()
    )


def measure_baseline(name: str, epochs: int) -> TimeLine:
    quieten()
    with tempfile.TemporaryDirectory() as cache:
        splits = read_splits(DATA, Path(cache))
        return Notebook(splits, MODEL, SIZE, epochs).run() if name == "n" else run_stock(splits, MODEL, SIZE, epochs)


def measure_ours(flags: Sequence[str], threads: int) -> TimeLine:
    with tempfile.TemporaryDirectory() as folder:
        return time_line(train(flags, data=DATA, model=MODEL, folder=Path(folder), threads=threads))


def known_baselines(file: Path | None, setting: dict[str, int]) -> dict[str, TimeLine]:
    """Those that the file holds.

    Raises:
        SystemExit: If they were measured with other threads or epochs.
    """
    if file is None or not file.exists():
        return {}
    content = json.loads(file.read_text())
    if content["setting"] != setting:
        raise SystemExit(f"{file} was measured with {content['setting']}, and this is {setting}: name another file")
    return {
        name: TimeLine([(t, a) for t, a in line["points"]], line["seconds"])
        for name, line in content.items()
        if name in NAMES
    }


def compare_speed(case: str, lines: Sequence[TimeLine], baselines: dict[str, TimeLine]) -> None:
    for name, baseline in baselines.items():
        seconds = [line.seconds_to(baseline.best) for line in lines]
        print(
            f"{case}: {name.upper()}'s best of {100 * baseline.best:.1f} % after {spread(seconds, ' s')}, "
            f"ratio to its {baseline.seconds:.0f} s {spread([s / baseline.seconds for s in seconds], digits=4)} "
            f"(at most {RATIO:.4f} wanted)"
        )


def compare_accuracy(lines: Sequence[TimeLine], baselines: dict[str, TimeLine]) -> None:
    limit = baselines["n"].seconds
    wanted = max(ACCURACY, baselines["s"].best + LEAD)
    reached = [100 * line.best_within(limit) for line in lines]
    print(f"best: {spread(reached, ' %')} within N's {limit:.0f} s ({100 * wanted:.1f} % wanted)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=[*NAMES, "ours"], help="one side; ours is compared with what FILE holds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="of our runs")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--baselines", type=Path, metavar="FILE", help="JSON with the time lines of N and S")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the baselines")
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    setting = {"threads": options.threads, "epochs": options.epochs}
    baselines = known_baselines(options.baselines, setting)
    for name in NAMES if options.only is None else {options.only} - {"ours"}:
        if name not in baselines:
            baselines[name] = measure_baseline(name, options.epochs)
            if options.baselines:
                content = {"setting": setting} | {key: asdict(line) for key, line in baselines.items()}
                options.baselines.write_text(json.dumps(content, indent=1) + "\n")
    for name, line in baselines.items():
        print(f"{NAMES[name]}: best {100 * line.best:.1f} %, {line.seconds:.0f} s", flush=True)
    if options.only in NAMES:
        return
    for case, own in {"fast": FAST, "best": BEST}.items():
        ours = []
        for seed in options.seeds:
            ours.append(measure_ours([*own, f"--seed={seed}", *flags], options.threads))
            print(f"{case}, seed {seed}: best {100 * ours[-1].best:.1f} %, {ours[-1].seconds:.1f} s", flush=True)
        compare_speed(case, ours, baselines)
        if case == "best" and set(baselines) == set(NAMES):
            compare_accuracy(ours, baselines)


if __name__ == "__main__":
    main()
