"""Compare the throughput of our training step with a bare PyTorch loop or with a stock Trainer script.

    python -m tests.benchmarks.step [--against bare|stock] [--case small|base] [--rounds 5] [--steps 20] [--batch 8]

Both sides train a network of the same shape on the same rendered flowers, without evaluations. The bare loop has our
batch size, precision, transforms, loader and collator, and runs only forward, backward, clipping, optimizer and
scheduler. The stock script is that of `baselines` with the library's defaults: fp32, batch size 8, PIL transforms, no
workers.

Each side runs in a new process. The rounds alternate which side runs first, so that noise of the machine affects both
sides equally. The program prints the medians and ranges of both sides in images per second, and of their ratio. With
`--against stock` it also prints our MFU: the model's operations per second as a share of the measured matmul rate. Use
`--steps 200` on a GPU, because its workers prepare the first batches before the timing starts.
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

from pipeline.arguments.images import ImageArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.images.processor import ImageProcessor, Normalize, input_size
from pipeline.images.train_images import MapImages
from pipeline.images.transforms import TrainTransform, collate
from pipeline.performance.flops import training_flops
from pipeline.performance.machine import best_attention, keep_freed_memory
from pipeline.performance.matmul import matmul_rate
from pipeline.performance.throughput import Clock
from pipeline.synthetic.dataset import load_synthetic
from pipeline.training.objective import Objective
from pipeline.training.trainer import Components, StrictTrainer
from tests.benchmarks.baselines import (
    StepClock,
    median_and_range,
    repeat_forever,
    run_in_subprocess,
    silence_libraries,
    stock_trainer,
    synchronized_time,
)

# The small case has the shape of the shipped base, where overhead is visible. The base case is ViT-B/16.
HEAD: dict[str, Any] = {"num_labels": 102}
SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "small": ({**HEAD, **SMALL, "image_size": 64, "patch_size": 8}, 32),
    "base": ({**HEAD, "image_size": 224, "patch_size": 16}, 16),
}
LEARNING_RATE = 1e-4


def load_train() -> datasets.Dataset:
    """Return the rendered flowers with the column `index`, which the transforms need."""
    train = load_synthetic()["train"]
    return train.add_column("index", list(range(len(train))))


def build(shape: dict[str, Any]) -> tuple[ImageProcessor, ViTForImageClassification]:
    torch.manual_seed(0)
    size = shape["image_size"]
    processor = cast(ImageProcessor, ViTImageProcessor(size={"height": size, "width": size}))
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
    # Our flags do not allow to turn these off. This benchmark must not time them.
    args.eval_strategy, args.save_strategy, args.load_best_model_at_end = IntervalStrategy.NO, SaveStrategy.NO, False
    return args


def our_trainer(shape: dict[str, Any], args: FineTuningArguments, train: datasets.Dataset) -> StrictTrainer:
    processor, model = build(shape)
    settings, transform = Settings(trainer=args), TrainTransform(processor, ImageArguments(), seed=0)
    objective = Objective(
        settings.images, settings.objective, class_counts=[1] * shape["num_labels"], label_smoothing=0.0
    )
    model.set_attn_implementation(best_attention(args.device, args.precision))
    components = Components(
        settings=settings,
        images=MapImages(train, transform),
        objective=objective,
        normalize=Normalize(processor),
        input_size=input_size(processor),
        clock=Clock(),
        flops=lambda _: 0,  # `describe_mfu` counts them
        matmul_rate=1.0,
    )
    trainer = StrictTrainer(
        components,
        model=model,
        args=args,
        data_collator=collate,
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
    return batch * clock.steps_per_second


def stock_rate(shape: dict[str, Any], batch: int, steps: int, train: datasets.Dataset) -> float:
    del batch  # the stock script keeps its default
    clock = StepClock()
    rows = train.cast_column("image", datasets.Image())
    steps_only: dict[str, Any] = {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        for part in build(shape):
            part.save_pretrained(Path(folder))
        splits = datasets.DatasetDict(train=rows, validation=rows)
        trainer = stock_trainer(splits, Path(folder), shape["image_size"], folder, clock, **steps_only)
        trainer.train()
    return trainer.args.train_batch_size * clock.steps_per_second


def bare_rate(shape: dict[str, Any], batch: int, steps: int, train: datasets.Dataset) -> float:
    processor, model = build(shape)
    args = arguments(tempfile.gettempdir(), batch, steps)
    rows = train.with_transform(TrainTransform(processor, ImageArguments(), seed=0))
    loader = DataLoader(
        rows, batch, shuffle=True, num_workers=args.dataloader_num_workers, collate_fn=collate, pin_memory=False
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    device, precision = args.device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    torch.nn.Module.to(model, device).train()  # the stubs of transformers hide the inherited method
    normalize, ends = Normalize(processor), []
    for step, inputs in zip(range(steps), repeat_forever(loader), strict=False):
        pixels, labels = normalize(inputs["pixel_values"].to(device)), inputs["labels"].to(device)
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            ends.append(synchronized_time(device))
    return batch * (steps - 1) / (ends[1] - ends[0])


def describe_mfu(shape: dict[str, Any], ours: Sequence[float]) -> str:
    """Format our throughput as a share of the measured matmul rate."""
    (_, model), size = build(shape), shape["image_size"]
    args = arguments(tempfile.gettempdir(), 1, 1)
    peak = matmul_rate(args.device, args.precision)
    shares = [100 * rate * training_flops(model, (size, size)) / peak for rate in ours]
    return f"MFU {median_and_range(shares, '%')}, where {args.precision} matmul reaches {peak / 1e12:.3g} TFLOP/s"


RATES = {"bare": bare_rate, "stock": stock_rate}


def compare(name: str, against: str, options: argparse.Namespace, train: datasets.Dataset) -> str:
    shape, batch = CASES[name]
    ours: list[float] = []
    baseline: list[float] = []
    for index in range(options.rounds):
        sides = [(ours, trainer_rate), (baseline, RATES[against])]
        for rates, measure in sides if index % 2 else sides[::-1]:
            rates.append(run_in_subprocess(measure, shape, options.batch or batch, options.steps, train))
    ratios = [our_rate / other_rate for our_rate, other_rate in zip(ours, baseline, strict=True)]
    line = (
        f"{name}: ours {median_and_range(ours)}, {against} {median_and_range(baseline)} images/s; "
        f"ratio {median_and_range(ratios, digits=3)}"
    )
    return line if against == "bare" else f"{line}\n{describe_mfu(shape, ours)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", choices=list(RATES), default="bare")
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, help="batch size of ours and of the bare loop; default: the case's")
    options = parser.parse_args()
    silence_libraries()
    args = arguments(str(Path(tempfile.gettempdir())), 1, 1)
    print(f"{args.device.type}, {args.precision}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for name in options.case or CASES:
        print(compare(name, options.against, options, load_train()), flush=True)


if __name__ == "__main__":
    main()
