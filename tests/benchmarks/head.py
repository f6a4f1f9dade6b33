"""`--strategy head` against the notebook's loop, with ViT-B/16 at 224 px: seconds until each has its classifier.

    python -m tests.benchmarks.head [--rounds 1] [--steps 20] [--layers 12] [--threads 2]

1,020 images to train and 1,020 to validate: drawn flowers, enlarged to JPEGs of 500 px as photographs have them. The
weights are drawn too, so only the time means something. Ours is the `train` verb, measured whole: features of both
splits, and the probe. The notebook's 15 epochs are told from a few steps and a few batches of validation.
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
from tests.benchmarks.baselines import EPOCHS, Notebook, quieten, spread
from tests.benchmarks.photographs import RATIO, read_splits, time_line, train
from tests.benchmarks.step import build

SIZE, EDGE = 224, 500


def write(folder: Path) -> Path:
    """The drawn flowers as two parquet files of JPEGs."""
    splits = load_synthetic(size=64)
    for name in ("train", "validation"):
        splits[name].map(_enlarge, keep_in_memory=True).to_parquet(folder / f"{name}.parquet", batch_size=100)
    return folder


def _enlarge(row: dict[str, Any]) -> dict[str, Any]:
    content = io.BytesIO()
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        image.convert("RGB").resize((EDGE, EDGE), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    return {"image": {"bytes": content.getvalue(), "path": None}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="training steps of the notebook that are timed")
    parser.add_argument("--layers", type=int, default=12, help="of the network")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    quieten()
    pairs = []
    with tempfile.TemporaryDirectory() as root:
        (data := Path(root) / "data").mkdir()
        write(data)
        model = Path(root) / "vit"
        for part in build({"num_labels": 1000, "image_size": SIZE, "num_hidden_layers": options.layers}):
            part.save_pretrained(model)
        splits = read_splits(data, Path(root) / "cache")
        for turn in range(options.rounds):
            (folder := Path(root) / str(turn)).mkdir()
            words = ["--strategy=head", *flags]
            ours = time_line(train(words, data=data, model=model, folder=folder, threads=options.threads)).seconds
            pairs.append((ours, Notebook(splits, model, SIZE).estimate(options.steps)))
            print(f"round {turn + 1}: ours {pairs[-1][0]:.1f} s, the notebook {pairs[-1][1]:.0f} s", flush=True)
    mine, theirs = zip(*pairs, strict=True)
    print(f"ours {spread(mine, ' s')}, the notebook's {EPOCHS} epochs {spread(theirs, ' s', digits=0)}")
    print(f"ratio {spread([a / b for a, b in pairs], digits=4)} (at most {RATIO:.4f} wanted)")


if __name__ == "__main__":
    main()
