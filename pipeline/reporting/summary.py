"""Metrics of a run or an evaluation as text."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SPLITS = {"eval": "validation", "test": "test", "train": "train", "all": "all images"}
"""Prefix of the metrics of a split -> its name for people."""
ACCURACIES = {"accuracy": "top-1", "top5_accuracy": "top-5", "macro_accuracy": "mean per class"}
"""Name of an accuracy metric -> its label for people."""

# Kind of an issue in `run.json` -> its name for one and for several.
_ISSUES = {
    "label": ("suspicious label", "suspicious labels"),
    "duplicate": ("duplicate", "duplicates"),
    "near duplicate": ("near duplicate", "near duplicates"),
    "leakage": ("leaked image", "leaked images"),
}
_RELIABLE = 0.8  # validation accuracy; a less accurate model is wrong more often than the labels of most data


@dataclass(frozen=True)
class SplitSummary:
    """The accuracies of one split as text.

    Attributes:
        split: Name of the split, such as `validation`.
        accuracies: Label, such as `top-1` -> percentage with its 95% interval. It holds only computed metrics.
        images: Number of images.
    """

    split: str
    accuracies: Mapping[str, str]
    images: int


def summarize(results: Mapping[str, Any]) -> Iterator[SplitSummary]:
    """Yield a summary for each split that the results contain.

    Args:
        results: Content of `all_results.json`.
    """
    for prefix, split in SPLITS.items():
        if f"{prefix}_accuracy" in results:
            texts = {label: format_accuracy(results, f"{prefix}_{key}") for key, label in ACCURACIES.items()}
            computed = {label: text for label, text in texts.items() if text}
            yield SplitSummary(split, computed, results[f"{prefix}_samples"])


def table(results: Mapping[str, Any]) -> str:
    """Return one line for each evaluated split: accuracies with their 95% intervals, and the number of images.

    Args:
        results: Content of `all_results.json`.
    """
    lines = []
    for row in summarize(results):
        accuracies = "   ".join(f"{label} {text}" for label, text in row.accuracies.items())
        lines.append(f"{row.split:<10}  {accuracies}   ({row.images} images)")
    return "\n".join(lines)


def confidence_sentences(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each part of the confidence that is stored with the model, measured on test if there is one.

    Without test, they were measured on the images on which they were fitted.
    """
    prefix = "test" if "test_accuracy" in results else "eval"
    found = {key.removeprefix(f"{prefix}_"): value for key, value in results.items() if key.startswith(f"{prefix}_")}
    where = f"of the {SPLITS[prefix]} images"
    if "calibrated_calibration_error" in found:
        yield (
            f"The calibration error of the probabilities is {found['calibration_error']:.4f}, and "
            f"{found['calibrated_calibration_error']:.4f} after calibration on validation."
        )
    if "aps_coverage" in found:
        yield (
            f"The prediction sets (APS) contain the true class for {format_accuracy(found, 'aps_coverage')} "
            f"{where}, with {found['aps_set_size']:.2f} classes on average."
        )
    if "answered_accuracy" in found:
        yield (
            f"The model answers {format_percent(found['answered'])} {where}; "
            f"{format_accuracy(found, 'answered_accuracy')} of the answers are correct."
        )
    if "unknown" in found:
        share = format_percent(found["unknown"])
        yield f"The model calls {share} {where} unknown, because they are unlike the training images."


def slices_of(results: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """Return the slices of a split, see `slices.find.Slice`; empty for runs of earlier versions."""
    prefix = next((prefix for prefix, name in SPLITS.items() if name == split), split)
    return list(results.get(f"{prefix}_slices", []))


def slice_sentences(slices: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence about each slice on which the model is significantly worse, the most significant first."""
    return [
        f"The model is significantly worse on images {'in' if each['kind'] == 'folder' else 'with'} {each['kind']} "
        f"{each['name']}: {format_accuracy(each, 'accuracy')} of {each['images']} images are classified correctly, "
        f"compared with {format_percent(each['others_accuracy'])} of the other images."
        for each in sorted(slices, key=lambda each: float(each["p_value"]))
        if each["is_worse"]
    ]


def audit_sentences(record: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the audit found. Nothing if the data was not audited."""
    if "audit" not in record:
        return
    counts: dict[str, int] = {}
    for entry in record["audit"]:
        counts[entry["issue"]] = counts.get(entry["issue"], 0) + entry["count"]
    found = [f"{count:,} {_ISSUES[kind][count != 1]}" for kind, count in counts.items()]
    checked = " No person has checked them." if found else ""
    accuracy = results.get("eval_accuracy", 1.0)
    if accuracy < _RELIABLE and any(entry["issue"] == "label" for entry in record["audit"]):
        checked += f" The model is correct on only {format_percent(accuracy)} of the validation images, so most of the "
        checked += "suspicious labels may be mistakes of the model."
    yield f"The audit of the data found {_join(found) or 'no issue'}.{checked}"
    for prefix in ("eval", "test"):
        if leaked := results.get(f"{prefix}_leaked"):
            split = SPLITS[prefix]
            repeat = "repeats" if leaked == 1 else "repeat"
            yield (
                f"{leaked:,} of the {results[f'{prefix}_samples']:,} {split} images {repeat} an image of an earlier "
                f"split. {_without(results, prefix, split)}"
            )


def history_sentences(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a repetition of the run would not repeat, or would do as well: changes on the way, and rewinds."""
    for entry in record.get("overridden", []):
        changes = [f"{each['name']} from {each['before']} to {each['now']}" for each in entry["changes"]]
        yield f"The run was interrupted and continued with changes: {_join(changes)}. A repetition will differ."
    for entry in record.get("rewinds", []):
        yield (
            f"Training diverged, and continued from step {entry['resumed_from']:,} with the learning rate "
            f"{entry['learning_rate']:g}."
        )


def _without(results: Mapping[str, Any], prefix: str, split: str) -> str:
    key = f"{prefix}_unleaked_accuracy"
    if key not in results:
        return f"No other {split} image is left."
    images = results[f"{prefix}_unleaked_samples"]
    return f"On the other {images:,} images, {split} accuracy is {format_accuracy(results, key)}."


def _join(items: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def is_linear_probe(recipe: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    """Return whether the saved model is a linear probe, as the strategy says or because `--auto` kept one."""
    kept = results.get("auto_probe_eval_accuracy", 0.0) > results.get("auto_trained_eval_accuracy", 1.0)
    return recipe.get("strategy") == "head" or kept


def format_accuracy(results: Mapping[str, Any], key: str) -> str:
    """Return an accuracy with its 95% interval, such as `91.27% [89.4, 92.9]`, or an empty string if it is missing."""
    if key not in results:
        return ""
    low, high = results[f"{key}_low"], results[f"{key}_high"]
    return f"{format_percent(results[key])} [{100 * low:.1f}, {100 * high:.1f}]"


def format_percent(fraction: float) -> str:
    """Return a fraction as a percentage with two decimals, such as `91.27%`."""
    return f"{100 * fraction:.2f}%"
