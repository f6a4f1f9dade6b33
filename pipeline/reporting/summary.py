"""The figures of a run or an evaluation as text for a terminal."""

from collections.abc import Mapping
from typing import Any

SPLITS = {"eval": "validation", "test": "test", "train": "train", "all": "all images"}
ACCURACIES = {"accuracy": "top-1", "top5_accuracy": "top-5", "macro_accuracy": "mean per class"}


def table(results: Mapping[str, Any]) -> str:
    """A line for each scored split: accuracies in per cent with their 95 % intervals, and the count of images."""
    lines = []
    for prefix, name in SPLITS.items():
        if f"{prefix}_accuracy" not in results:
            continue
        parts = [percent(results, f"{prefix}_{key}", label) for key, label in ACCURACIES.items()]
        lines.append(f"{name:<10}  {'   '.join(p for p in parts if p)}   ({results[f'{prefix}_samples']} images)")
    return "\n".join(lines)


def percent(results: Mapping[str, Any], key: str, label: str) -> str:
    """`top-1 91.27 % [89.4, 92.9]`, or nothing where the figure is not there."""
    if key not in results:
        return ""
    low, high = results[f"{key}_low"], results[f"{key}_high"]
    return f"{label} {100 * results[key]:.2f} % [{100 * low:.1f}, {100 * high:.1f}]"
