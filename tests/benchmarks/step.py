"""The Trainer's step against a bare PyTorch loop: same network, batch, precision, images and transforms.

    python -m tests.benchmarks.step [--case small|base] [--rounds 5] [--steps 20]

Both sides train on the same drawn flowers through the same transforms, loader and collator; the bare loop does only
forward, backward, clipping, optimizer and scheduler. Rounds alternate, so that a noisy machine disturbs both alike;
printed are the medians of images a second, their range over the rounds, and the median of the rounds' ratios.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification, ViTImageProcessor, get_scheduler
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from pipeline.data.synthetic import load_synthetic
from pipeline.data.transforms import ImageProcessor, TrainTransform, collate
from pipeline.training.arguments import FineTuningArguments
from pipeline.training.trainer import StrictTrainer

# Small: the shipped base, where overhead shows. Base: ViT-B/16, what people fine-tune.
HEAD: dict[str, Any] = {"num_labels": 102}
SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "small": ({**HEAD, **SMALL, "image_size": 64, "patch_size": 8}, 32),
    "base": ({**HEAD, "image_size": 224, "patch_size": 16}, 8),
}
LEARNING_RATE = 1e-4


def load_train() -> datasets.Dataset:
    """The drawn flowers, with the column that the transforms want."""
    train = load_synthetic()["train"]
    return train.add_column("index", list(range(len(train))))


class Clock(TrainerCallback):
    """Notes when each step of the Trainer ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def build(shape: dict[str, Any]) -> tuple[ImageProcessor, ViTForImageClassification]:
    torch.manual_seed(0)
    side = shape["image_size"]
    processor = cast(ImageProcessor, ViTImageProcessor(size={"height": side, "width": side}))
    return processor, ViTForImageClassification(ViTConfig(**shape))


def arguments(folder: str, batch: int, steps: int) -> FineTuningArguments:
    args = FineTuningArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=LEARNING_RATE,
        logging_steps=10,
        disable_tqdm=True,
    )
    # A run of ours cannot switch these off. Here they would be timed in place of the step.
    args.eval_strategy, args.save_strategy, args.load_best_model_at_end = IntervalStrategy.NO, SaveStrategy.NO, False
    return args


def trainer_rate(shape: dict[str, Any], batch: int, steps: int, train: datasets.Dataset) -> float:
    processor, model = build(shape)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(folder, batch, steps)
        trainer = StrictTrainer(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=train.with_transform(TrainTransform(processor, seed=0)),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return batch * (len(clock.ends) - 1) / (clock.ends[-1] - clock.ends[0])


def bare_rate(shape: dict[str, Any], batch: int, steps: int, train: datasets.Dataset) -> float:
    processor, model = build(shape)
    args = arguments(tempfile.gettempdir(), batch, steps)
    rows = train.with_transform(TrainTransform(processor, seed=0))
    loader = DataLoader(
        rows, batch, shuffle=True, num_workers=args.dataloader_num_workers, collate_fn=collate, pin_memory=False
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    device, precision = args.device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    torch.nn.Module.to(model, device).train()  # the stubs of transformers hide the inherited method
    ends: list[float] = []
    while len(ends) < steps:
        for inputs in loader:
            with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                loss = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            ends.append(time.perf_counter())
            if len(ends) == steps:
                break
    return batch * (len(ends) - 1) / (ends[-1] - ends[0])


def compare(name: str, rounds: int, steps: int, train: datasets.Dataset) -> str:
    shape, batch = CASES[name]
    pairs = []
    for turn in range(rounds):
        sides = [("bare", bare_rate), ("trainer", trainer_rate)]
        rates = {key: measure(shape, batch, steps, train) for key, measure in (sides if turn % 2 else sides[::-1])}
        pairs.append((rates["trainer"], rates["bare"]))
    ours, bare = zip(*pairs, strict=True)
    ratios = [a / b for a, b in pairs]
    return (
        f"{name}: Trainer {statistics.median(ours):.1f} [{min(ours):.1f}, {max(ours):.1f}], "
        f"bare loop {statistics.median(bare):.1f} [{min(bare):.1f}, {max(bare):.1f}] images/s; "
        f"ratio {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    args = arguments(str(Path(tempfile.gettempdir())), 1, 1)
    print(f"{args.device.type}, {args.precision}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for name in options.case or CASES:
        print(compare(name, options.rounds, options.steps, load_train()), flush=True)


if __name__ == "__main__":
    main()
