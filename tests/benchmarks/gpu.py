"""Where the time of a training on one GPU goes, beside a bare compiled loop and a stock Trainer script.

    python -m tests.benchmarks.gpu [--small]

The data are JPEGs of 500 x 667 px in class folders, 102 classes, ten images each for training and for validation, and
the network has the shape of ViT-B/16 at 224 px with random weights; so nothing is said about accuracy. The settings are
those of the shipped recipe `flowers102`. Each row is one complete command in a new process, and is printed when it
ends. All rows together take less than six minutes on one H100 or H200. `--small` runs the same rows with a small
network and few images, to try the program on a CPU.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessor

from pipeline.performance.device import synchronize
from pipeline.performance.flops import training_flops
from pipeline.performance.machine import usable_cores
from pipeline.performance.matmul import matmul_rate
from pipeline.reporting.facts import phases
from pipeline.reporting.run_files import RunFiles
from tests.benchmarks.baselines import StepClock, run_in_subprocess, stock_trainer

CLASSES, PER_CLASS = 102, 10
BATCH = 128
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        shape: Arguments of `ViTConfig`.
        per_class: Images per class and split.
        side: Shorter side of the images in pixels.
        batch: Batch size.
        short: Epochs of the rows that compare settings.
        complete: Epochs of the complete recipe.
        steps: Steps of a bare loop.
    """

    shape: dict[str, Any]
    per_class: int
    side: int
    batch: int
    short: int
    complete: int
    steps: int

    @property
    def input_size(self) -> int:
        """Return the input resolution in pixels."""
        return int(self.shape.get("image_size", 224))


FULL = Case({"num_labels": CLASSES}, PER_CLASS, 500, BATCH, short=25, complete=100, steps=40)
TRIAL = Case({"num_labels": CLASSES, "image_size": 64, **SMALL}, 2, 100, 32, short=2, complete=4, steps=4)


def write_photos(root: Path, case: Case) -> None:
    """Write the JPEGs: smooth random colors with noise, so that a file has about as many bytes as a photograph's."""
    splits = [(root / split / f"{label:03d}", seed) for seed, split in enumerate(("train", "validation")) for label in
              range(CLASSES)]  # fmt: skip
    with ProcessPoolExecutor(usable_cores()) as pool:
        list(pool.map(_write_class, *zip(*splits, strict=True), [case] * len(splits)))


def _write_class(folder: Path, seed: int, case: Case) -> None:
    folder.mkdir(parents=True)
    random, size = np.random.default_rng([seed, int(folder.name)]), (case.side, case.side * 4 // 3)
    for number in range(case.per_class):
        colors = PIL.Image.fromarray(random.integers(0, 256, (12, 9, 3), dtype=np.uint8))
        smooth = np.asarray(colors.resize(size, PIL.Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=75)


def write_network(folder: Path, case: Case) -> None:
    """Write a checkpoint with random weights, and the image processor of its size."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**case.shape)).save_pretrained(folder)
    ViTImageProcessor(size={"height": case.input_size, "width": case.input_size}).save_pretrained(folder)


class Block(nn.Module):
    """A transformer block with one product for queries, keys and values."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(attended)
        output: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return output


class PlainViT(nn.Module):
    """A ViT of the same shape, without the options of transformers: the limit of the bare loop."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, patch, side = config.hidden_size, config.patch_size, config.image_size
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
        shape = (width, config.num_attention_heads, config.intermediate_size)
        self.blocks = nn.Sequential(*(Block(*shape) for _ in range(config.num_hidden_layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, config.num_labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def bare_rate(case: Case, plain: bool, compiled: bool) -> float:
    """Return the images per second of bare steps in bf16 on one batch that is on the device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config: Any = ViTConfig(**case.shape)
    network: Any = PlainViT(config) if plain else ViTForImageClassification(config)
    network.to(device).train()
    side = config.image_size
    pixels = torch.randn(case.batch, 3, side, side, device=device)
    labels = torch.randint(0, CLASSES, (case.batch,), device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    forward = torch.compile(network, dynamic=False) if compiled else network

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            answer = forward(pixels)
        functional.cross_entropy((answer if plain else answer.logits).float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(4):
        step()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(case.steps):
        step()
    synchronize(device)
    return case.steps * case.batch / (time.perf_counter() - start)


def stock_rate(data: Path, network: Path, case: Case, tuned: bool) -> float:
    """Return the images per second of the stock script, at its defaults or with the usual flags for a GPU."""
    clock, on_gpu = StepClock(), torch.cuda.is_available()
    gpu = {"bf16": on_gpu, "per_device_train_batch_size": case.batch, "dataloader_num_workers": min(8, usable_cores())}
    splits: Any = datasets.load_dataset("imagefolder", data_dir=str(data))
    batch = case.batch if tuned else TrainingArguments("unused").per_device_train_batch_size
    with tempfile.TemporaryDirectory() as folder:
        steps = {"max_steps": case.steps + 1, "eval_strategy": "no", "save_strategy": "no"}
        stock_trainer(splits, network, case.input_size, folder, clock, **steps, **(gpu if tuned else {})).train()
    return batch * clock.steps_per_second


def train(title: str, data: Path, network: Path, flags: list[str], cache: Path) -> tuple[float, dict[str, Any]]:
    """Run `train --config flowers102` as a command; print and return its images per second and its record."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "--config=flowers102", f"--dataset_name={data}", f"--model_name_or_path={network}",
                 "--model_revision=main", f"--output_dir={folder}/run", "--disable_tqdm=True", *flags]  # fmt: skip
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache)}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words], env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            print(f"{title:<46} failed: {' '.join(done.stderr.split())[-300:]}", flush=True)
            return 0.0, {}
        run = RunFiles.read(Path(folder) / "run")
    speed, machine = run.record.get("speed", {}), run.record["machine"]
    rate = float(speed.get("images_per_second", 0.0))
    steps = ""  # a linear probe has none
    if speed:
        steps = (f"{rate:6.0f} images/s, data wait {speed['data_wait']:.1%}, cache {machine['image_cache']}, "
                 f"{'' if speed['compiled'] else 'not '}compiled; ")  # fmt: skip
    print(f"{title:<46} {steps}command {seconds:.1f} s", flush=True)
    found = phases(run)
    rest = seconds - sum(value for _, value, _ in found)
    for phase, value in [*((phase, value) for phase, value, _ in found), ("everything else", rest)]:
        print(f"    {phase:<50} {value:7.2f} s {value / seconds:6.1%}", flush=True)
    return rate, run.record


def attempt(title: str, measure: Callable[..., float], *args: Any) -> float:
    """Measure a rate in a new process and print it, or print why it failed."""
    try:
        rate = float(run_in_subprocess(measure, *args))
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        print(f"{title:<46} failed: {' '.join(str(error).split())[:200]}", flush=True)
        return 0.0
    print(f"{title:<46} {rate:6.0f} images/s", flush=True)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a small network and few images")
    case = TRIAL if parser.parse_args().small else FULL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = matmul_rate(device, "bf16" if device.type == "cuda" else "fp32")
    print(f"{name}, torch {torch.__version__}, matmul {peak / 1e12:.3g} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as root:
        data, network, cache = (Path(root) / part for part in ("photos", "network", "cache"))
        write_photos(data, case)
        write_network(network, case)
        rates = {
            title: attempt(f"bare loop: {title}", bare_rate, case, plain, compiled)
            for title, plain, compiled in (
                ("plain ViT, compiled", True, True), ("transformers, compiled", False, True),
                ("transformers", False, False),
            )
        }  # fmt: skip
        few = [f"--num_train_epochs={case.short}", f"--global_batch_size={case.batch}", "--report=no"]
        few += ["--eval_strategy=epoch", "--save_strategy=epoch"] if case is TRIAL else []
        ours, _ = train("flowers102", data, network, few, cache)
        compiled, _ = train("flowers102, --torch_compile", data, network, [*few, "--torch_compile=True"], cache)
        policy = [*few, "--augmentation=trivial", "--random_erasing=0.25", "--mixup=0.2"]
        train("flowers102, TrivialAugment, erasing, mixup", data, network, policy, cache)
        train("flowers102, images from the disk cache", data, network, [*few, "--image_cache=disk"], cache)
        long = [flag for flag in few if not flag.startswith(("--num_train_epochs", "--report"))]
        train("flowers102, all epochs, with its report", data, network,
              [*long, f"--num_train_epochs={case.complete}"], cache)  # fmt: skip
        train("linear probe", data, network, ["--strategy=head", "--report=no"], cache)
        stock = attempt("stock script, bf16, batch 128, 8 workers", stock_rate, data, network, case, True)
        default = attempt("stock script at its defaults", stock_rate, data, network, case, False)
    flops = training_flops(ViTForImageClassification(ViTConfig(**case.shape)), (case.input_size, case.input_size))
    limit = max(rates["plain ViT, compiled"], 1e-9)
    print(f"ours : plain compiled loop {ours / limit:.2f}, with --torch_compile {compiled / limit:.2f}; "
          f"ours : stock {ours / max(stock, 1e-9):.2f}; ours : stock at its defaults {ours / max(default, 1e-9):.2f}; "
          f"MFU {ours * flops / peak:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
