"""Our training step against a bare PyTorch loop, or against a stock Trainer script: images a second.

    python -m tests.benchmarks.step [--against bare|stock] [--case small|base] [--rounds 5] [--steps 20] [--batch 8]

Both sides train a network of the same shape on the same drawn flowers, without evaluations. The bare loop has the same
batch, precision, transforms, loader and collator as ours, and does only forward, backward, clipping, optimizer and
scheduler. The stock script is S of `baselines`, at the library's defaults: fp32, batch 8, PIL transforms, no workers.
Each side runs in a process of its own. Rounds alternate, so that a noisy machine disturbs both alike; printed are the
medians, their range over the rounds, and the median of the rounds' ratios. Against stock, our rate is also told as a
share of what the processor multiplies. On a GPU take --steps 200: its workers prepare the first batches while nothing
is timed.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, get_scheduler
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.images.processor import ImageProcessor, Normalize
from pipeline.images.transforms import TrainTransform, collate
from pipeline.performance.flops import training_flops
from pipeline.performance.machine import best_attention, keep_freed_memory
from pipeline.performance.matmul import matmul_rate
from pipeline.performance.throughput import Clock
from pipeline.synthetic.dataset import load_synthetic
from pipeline.training.objective import Objective
from pipeline.training.trainer import Parts, StrictTrainer
from tests.benchmarks.baselines import StepClock, alone, endless, now, quieten, spread, stock_trainer

# Small: the shipped base, where overhead shows. Base: ViT-B/16, what people fine-tune.
HEAD: dict[str, Any] = {"num_labels": 102}
SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "small": ({**HEAD, **SMALL, "image_size": 64, "patch_size": 8}, 32),
    "base": ({**HEAD, "image_size": 224, "patch_size": 16}, 16),
}
LEARNING_RATE = 1e-4


def load_train() -> datasets.Dataset:
    """The drawn flowers, with the column that the transforms want."""
    train = load_synthetic()["train"]
    return train.add_column("index", list(range(len(train))))


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


def our_trainer(shape: dict[str, Any], args: FineTuningArguments, train: datasets.Dataset) -> StrictTrainer:
    processor, model = build(shape)
    settings, transform = Settings(args), TrainTransform(processor, AugmentationArguments(), seed=0)
    objective = Objective(settings.augmentation, class_counts=[1] * shape["num_labels"], label_smoothing=0.0)
    model.set_attn_implementation(best_attention(args.device, args.precision))
    parts = Parts(
        settings=settings,
        objective=objective,
        normalize=Normalize(processor),
        clock=Clock(),
        epoch=transform.epoch,
        flops=lambda _: 0,  # `share` counts them
        matmul_rate=1.0,
    )
    trainer = StrictTrainer(
        parts,
        model=model,
        args=args,
        data_collator=collate,
        train_dataset=train.with_transform(transform),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def trainer_rate(shape: dict[str, Any], batch: int, steps: int, train: datasets.Dataset) -> float:
    clock = StepClock()
    keep_freed_memory()  # as `train` does
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(shape, arguments(folder, batch, steps), train)
        trainer.add_callback(clock)
        trainer.train()
    return batch * clock.rate


def stock_rate(shape: dict[str, Any], batch: int, steps: int, train: datasets.Dataset) -> float:
    del batch  # its own
    clock = StepClock()
    rows = train.cast_column("image", datasets.Image())
    alone: dict[str, Any] = {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        for part in build(shape):
            part.save_pretrained(Path(folder))
        splits = datasets.DatasetDict(train=rows, validation=rows)
        trainer = stock_trainer(splits, Path(folder), shape["image_size"], folder, clock, **alone)
        trainer.train()
    return trainer.args.train_batch_size * clock.rate


def bare_rate(shape: dict[str, Any], batch: int, steps: int, train: datasets.Dataset) -> float:
    processor, model = build(shape)
    args = arguments(tempfile.gettempdir(), batch, steps)
    rows = train.with_transform(TrainTransform(processor, AugmentationArguments(), seed=0))
    loader = DataLoader(
        rows, batch, shuffle=True, num_workers=args.dataloader_num_workers, collate_fn=collate, pin_memory=False
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    device, precision = args.device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    torch.nn.Module.to(model, device).train()  # the stubs of transformers hide the inherited method
    normalize, ends = Normalize(processor), []
    for step, inputs in zip(range(steps), endless(loader), strict=False):
        pixels, labels = normalize(inputs["pixel_values"].to(device)), inputs["labels"].to(device)
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            ends.append(now(device))
    return batch * (steps - 1) / (ends[1] - ends[0])


def share(shape: dict[str, Any], ours: Sequence[float]) -> str:
    """Our rate as a share of the matrix products that the processor does in a second."""
    (_, model), side = build(shape), shape["image_size"]
    args = arguments(tempfile.gettempdir(), 1, 1)
    peak = matmul_rate(args.device, args.precision)
    shares = [100 * rate * training_flops(model, (side, side)) / peak for rate in ours]
    return f"{spread(shares, ' %')} of the {peak / 1e12:.3g} TFLOP/s that {args.precision} matrix products reach here"


RATES = {"bare": bare_rate, "stock": stock_rate}


def compare(name: str, against: str, options: argparse.Namespace, train: datasets.Dataset) -> str:
    shape, batch = CASES[name]
    ours: list[float] = []
    others: list[float] = []
    for turn in range(options.rounds):
        sides = [(ours, trainer_rate), (others, RATES[against])]
        for rates, measure in sides if turn % 2 else sides[::-1]:
            rates.append(alone(measure, shape, options.batch or batch, options.steps, train))
    line = (
        f"{name}: ours {spread(ours)}, {against} {spread(others)} images/s; "
        f"ratio {spread([a / b for a, b in zip(ours, others, strict=True)], digits=3)}"
    )
    return line if against == "bare" else f"{line}\n{share(shape, ours)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", choices=list(RATES), default="bare")
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, help="images a step of ours and of the bare loop, where not the case's")
    options = parser.parse_args()
    quieten()
    args = arguments(str(Path(tempfile.gettempdir())), 1, 1)
    print(f"{args.device.type}, {args.precision}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for name in options.case or CASES:
        print(compare(name, options.against, options, load_train()), flush=True)


if __name__ == "__main__":
    main()
