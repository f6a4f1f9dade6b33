"""Compare the time of `--strategy head` with the time of the notebook's loop, for ViT-B/16 at 224 px.

    python -m tests.benchmarks.head [--rounds 1] [--steps 20] [--layers 12] [--threads 2]

There are 1,020 training and 1,020 validation images: rendered flowers, enlarged to JPEGs of 500 px, the size of the
photographs of Flowers-102. The weights are random, so only the times have a meaning. Ours is the complete time that
the `train` verb needs for the features of both splits and the linear probe. The time of the notebook's 15 epochs is
estimated from a few training steps and validation batches.
"""

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline.performance import machine
from pipeline.synthetic.dataset import load_synthetic
from tests.benchmarks.baselines import EPOCHS, Notebook, median_and_range, silence_libraries
from tests.benchmarks.photographs import TARGET_RATIO, read_splits, time_line, train
from tests.benchmarks.step import build

INPUT_SIZE, IMAGE_SIZE = 224, 500


def write(folder: Path) -> Path:
    """Write the rendered flowers as two Parquet files of JPEGs; return the folder."""
    splits = load_synthetic(size=64)
    for name in ("train", "validation"):
        splits[name].map(_enlarge, keep_in_memory=True).to_parquet(folder / f"{name}.parquet", batch_size=100)
    return folder


def _enlarge(row: dict[str, Any]) -> dict[str, Any]:
    content = io.BytesIO()
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(
            content, "JPEG", quality=90
        )
    return {"image": {"bytes": content.getvalue(), "path": None}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="timed training steps of the notebook")
    parser.add_argument("--layers", type=int, default=12, help="layers of the network")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    silence_libraries()
    pairs = []
    with tempfile.TemporaryDirectory() as root:
        (data := Path(root) / "data").mkdir()
        write(data)
        model = Path(root) / "vit"
        for part in build({"num_labels": 1000, "image_size": INPUT_SIZE, "num_hidden_layers": options.layers}):
            part.save_pretrained(model)
        splits = read_splits(data, Path(root) / "cache")
        for index in range(options.rounds):
            (folder := Path(root) / str(index)).mkdir()
            words = ["--strategy=head", *flags]
            ours = time_line(train(words, data=data, model=model, folder=folder, threads=options.threads)).seconds
            pairs.append((ours, Notebook(splits, model, INPUT_SIZE).estimate(options.steps)))
            print(f"round {index + 1}: ours {pairs[-1][0]:.1f} s, notebook {pairs[-1][1]:.0f} s", flush=True)
    our_seconds, notebook_seconds = zip(*pairs, strict=True)
    print(
        f"ours {median_and_range(our_seconds, ' s')}, "
        f"notebook, {EPOCHS} epochs {median_and_range(notebook_seconds, ' s', digits=0)}"
    )
    ratios = median_and_range([ours / notebook for ours, notebook in pairs], digits=4)
    print(f"ratio {ratios} (target: at most {TARGET_RATIO:.4f})")


if __name__ == "__main__":
    main()
