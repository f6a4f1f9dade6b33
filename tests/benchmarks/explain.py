"""How long relevance maps take, compared with a bare forward pass of the same network on the same images.

    python -m tests.benchmarks.explain [--images 16] [--rounds 3] [--small]

The network has the shape of ViT-B/16 at 224 px (with --small: 64 px and 6 layers of 192) and random weights, so the
maps say nothing. Each round measures the bare forward pass, the maps alone, and the maps with their comparison with
random maps; the table holds images/s and the ratio to the bare forward pass, as median [minimum, maximum].
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from pipeline.evaluation.explanations.explain import Explainer
from pipeline.models.classifier import ImageClassifier

SMALL: dict[str, Any] = {
    "image_size": 64, "patch_size": 8, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3,
    "intermediate_size": 768,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--random_maps", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    shape: dict[str, Any] = {"num_labels": 102} | (SMALL if args.small else {})
    config: Any = ViTConfig(**shape)
    side = config.image_size
    model: Any = ViTForImageClassification(config).eval()
    processor: Any = ViTImageProcessor(size={"height": side, "width": side})
    classifier = ImageClassifier(model, processor)
    pixels = torch.randn(args.images, 3, side, side)
    batches = [
        {"pixel_values": part, "names": ["image"] * len(part), "problems": [None] * len(part)}
        for part in pixels.split(args.batch_size)
    ]
    maps, compared = (Explainer(classifier, named=None, random_maps=number) for number in (0, args.random_maps))
    programs: dict[str, Callable[[dict[str, Any]], object]] = {
        "bare forward pass": lambda batch: model(pixel_values=batch["pixel_values"]),
        "maps": maps.explain_batch,
        f"maps, compared with {args.random_maps} random maps": compared.explain_batch,
    }
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    with torch.no_grad():
        for _ in range(args.rounds):
            for name, program in programs.items():
                start = time.perf_counter()
                for batch in batches:
                    program(batch)
                speeds[name].append(args.images / (time.perf_counter() - start))
    bare = speeds["bare forward pass"]
    for name, found in speeds.items():
        ratios = [each / base for each, base in zip(found, bare, strict=True)]
        print(
            f"{name:40} {statistics.median(found):8.3f} images/s   {statistics.median(ratios):.3f} "
            f"[{min(ratios):.3f}, {max(ratios):.3f}] times the bare forward pass"
        )


if __name__ == "__main__":
    main()
