"""Kill a fine-tuning on real photographs at random, push the run to a loopback Hub, load it back and score it again.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.flowers_faults [--kills 10] [--epochs 3]

1,020 training images of Flowers-102 at 64 px, and a ViT of 2.7 M parameters at 32 px, from the folder that
`VIT_PIPELINE_SHARED` names. The undisturbed run also measures what the safety of its checkpoints costs: hashes,
flushes to the disk, manifests, rotation, and the checks for NaN. The exit code is 1 if a file of the killed run, or a
prediction of the pushed one, differs.
"""

import argparse
import functools
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.benchmarks.hub_faults import client_of_a_fake_hub

REPO = "tester/flowers"
COMPARED = ("model.safetensors", "config.json", "predictions.parquet", "issues.csv", "uncertainty.safetensors")


def words_of(folder: Path, epochs: int) -> list[str]:
    """Return the command line of a training, with a checkpoint and an evaluation every half epoch."""
    from tests.conftest import SHARED

    flags = {
        "model_name_or_path": SHARED / "vit-tiny-imagenet-32px", "dataset_name": SHARED / "flowers102-64px",
        "output_dir": folder, "num_train_epochs": epochs, "learning_rate": 1e-3, "layer_decay": 0.85,
        "per_device_train_batch_size": 32, "precision": "fp32", "dataloader_num_workers": 2, "report": "no",
        "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 16, "save_steps": 16, "logging_steps": 1,
    }  # fmt: skip
    return ["train", *(f"--{name}={value}" for name, value in flags.items())]


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:12] for name in COMPARED}


def measure_safety(costs: Path) -> None:
    """Count the seconds of what only makes a training safe. They are written when the process ends training."""
    from pipeline.runs import checkpoints
    from pipeline.training.callbacks.divergence import Guard
    from pipeline.training.trainer import StrictTrainer

    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - start
                if name == "train":
                    costs.write_text(json.dumps(seconds))

        setattr(owner, name, measured)

    for owner, name in (
        (checkpoints, "seal"), (checkpoints, "rotate"), (checkpoints, "require_space"), (checkpoints, "find_damage"),
        (Guard, "look"), (Guard, "require_finite"), (StrictTrainer, "_save_checkpoint"), (StrictTrainer, "train"),
    ):  # fmt: skip
        timed(owner, name)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="flowers-"))
    with client_of_a_fake_hub(root) as hub:
        from tests.benchmarks import fork_server as server

        def finish(words: list[str]) -> float:
            start = time.monotonic()
            output = root / "output.txt"
            code = server.wait(server.spawn(words, output), timeout=1800)
            assert code == 0, output.read_text()[-3000:]
            return time.monotonic() - start

        measure_safety(root / "costs.json")  # in every process; the last one to end training writes its own
        whole, killed = root / "whole", root / "killed"
        seconds = finish(words_of(whole, options.epochs))
        show_costs(json.loads((root / "costs.json").read_text()))
        print(f"undisturbed: {seconds:.0f} s, {hashes(whole)}", flush=True)
        rng, where = random.Random(0), Counter[str]()
        while where.total() < options.kills:
            pid = server.spawn(words_of(killed, options.epochs), root / "killed.txt")
            time.sleep(rng.uniform(0.02, 0.4) * seconds)
            where[server.phase()] += 1
            os.killpg(pid, 9)
            os.waitpid(pid, 0)
        finish(words_of(killed, options.epochs))
        print(f"killed {options.kills} times ({dict(where)}): {hashes(killed)}", flush=True)
        finish(["push", f"--model={killed}", f"--hub_model_id={REPO}"])
        data = words_of(killed, 1)[2]
        finish(["evaluate", f"--model={REPO}", data, "--split=validation", f"--output_dir={root / 'scored'}"])
        pushed = hub.files("model", REPO)
    same_weights = hashlib.sha256(pushed["model.safetensors"]).hexdigest()[:12] == hashes(whole)["model.safetensors"]
    difference = compare_predictions(killed, root / "scored")
    print(f"pushed {len(pushed)} files, the same weights: {same_weights}; largest difference of a logit: {difference}")
    exact = hashes(whole) == hashes(killed)
    print("exact" if exact else "DIFFERENT", root)
    return int(not (exact and same_weights and difference == 0))


def show_costs(costs: dict[str, float]) -> None:
    train, save = costs.pop("train"), costs.pop("_save_checkpoint")
    safety = sum(costs.values())
    parts = ", ".join(f"{name} {value:.3f}" for name, value in sorted(costs.items()))
    print(f"training {train:.1f} s; all of the saves {save:.2f} s ({save / train:.1%})")
    print(f"safety {safety:.2f} s ({safety / train:.2%} of the training): {parts}", flush=True)


def compare_predictions(run: Path, scored: Path) -> float:
    """Return the largest difference of a validation logit."""
    import numpy as np

    from pipeline.evaluation.predictions import read_predictions

    (one, *_), _ = read_predictions(run / "predictions.parquet")
    (other, *_), _ = read_predictions(scored / "predictions.parquet")
    assert (one.split, one.ids) == ("validation", other.ids)
    return float(np.max(np.abs(one.logits - other.logits)))


if __name__ == "__main__":
    sys.exit(main())
